package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/server"
)

func (a *app) configCmd() *cobra.Command {
	var check string
	var dev bool
	c := &cobra.Command{
		Use:   "config",
		Short: "Print every setting with its meaning, or check a file",
		Long: `Prints a configuration file with every key, what it means and its value: the default,
or what the file and the WEIR_* environment say. The output is a valid weir.yaml.`,
		Example: `  weir config > weir.yaml
  weir config --check weir.yaml
  WEIR_DURABILITY=os weir config -o json`,
		Args: arguments(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := config.Load(check, dev, a.environ, server.Check)
			if err != nil {
				return err
			}
			if a.output == "json" {
				values := map[string]string{}
				for _, k := range config.Keys {
					values[k.Path] = cfg.Get(k.Path)
				}
				return a.printJSON(values)
			}
			if check != "" {
				fmt.Fprintf(a.stdout, "%s is valid\n", check)
				return nil
			}
			_, err = a.stdout.Write(cfg.File(true))
			return err
		},
	}
	c.Flags().StringVar(&check, "check", "", "read this file and say whether it is valid")
	c.Flags().BoolVar(&dev, "dev", false, "start from the defaults of weir dev")
	return c
}
