package config

import (
	"fmt"
	"strconv"
	"strings"
)

// File writes c as a file that says what each key means. Keys that have their
// default are commented out unless all is true.
func (c *Config) File(all bool) []byte {
	var b strings.Builder
	b.WriteString("# weir.yaml: every key, what it means, and its default.\n")
	b.WriteString("# Each can be set by the environment instead: durability by WEIR_DURABILITY,\n")
	b.WriteString("# events.max_age by WEIR_EVENTS_MAX_AGE. Durations: 500ms, 30s, 24h, 7d. Sizes: 512MiB, 8GiB.\n")
	current := ""
	for i := range Keys {
		k := &Keys[i]
		parent, name, nested := strings.Cut(k.Path, ".")
		indent := ""
		if !nested {
			name = parent
		} else {
			indent = "  "
			if parent != current {
				current = parent
				b.WriteString("\n" + parent + ":\n")
			}
		}
		if !nested {
			b.WriteString("\n")
		}
		for _, l := range wrap(k.Help, 90) {
			b.WriteString(indent + "# " + l + "\n")
		}
		if k.Dev != "" {
			fmt.Fprintf(&b, "%s# (`weir dev`: %s)\n", indent, k.Dev)
		}
		mark := ""
		if v := k.get(c); !all && same(k, v) {
			mark = "# "
		}
		fmt.Fprintf(&b, "%s%s%s: %s\n", indent, mark, name, yamlValue(k, k.get(c)))
	}
	return []byte(b.String())
}

func same(k *Key, v string) bool {
	var d Config
	if err := k.set(&d, k.Default); err != nil {
		return false
	}
	return k.get(&d) == v
}

func yamlValue(k *Key, v string) string {
	if k.List {
		if v == "" {
			return "[]"
		}
		var parts []string
		for p := range strings.SplitSeq(v, ",") {
			parts = append(parts, yamlText(p))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	if k.Type == "true or false" || strings.HasPrefix(k.Type, "number") {
		return v
	}
	return yamlText(v)
}

// yamlText quotes what YAML could take for something else.
func yamlText(v string) string {
	plain := v != "" && !strings.ContainsAny(v, ":#\"'{}[],&*!|>%@`\\ \t\n") && v[0] != '-' && v[0] != '?'
	if _, err := strconv.ParseFloat(v, 64); err == nil {
		plain = false
	}
	switch strings.ToLower(v) {
	case "true", "false", "null", "~", "yes", "no", "y", "n":
		plain = false
	}
	if plain {
		return v
	}
	return strconv.Quote(v)
}

// Markdown writes the reference of all keys.
func Markdown() []byte {
	var b strings.Builder
	b.WriteString("# Configuration\n\n")
	b.WriteString("Weir reads one YAML file, `weir serve --config weir.yaml`, and needs none: every key has a default.\n")
	b.WriteString("`weir config` prints a file with every key in it; `weir config --check weir.yaml` checks yours.\n")
	b.WriteString("A key Weir does not know is an error with its line and a suggestion. Every key can be set by the\n")
	b.WriteString("environment, which wins over the file. `weir dev` starts from the same defaults but for the keys marked so.\n\n")
	b.WriteString("Durations are written as 500ms, 30s, 1h30m or 7d; sizes as 65536, 512MiB or 8GiB.\n")
	current := "\x00"
	for i := range Keys {
		k := &Keys[i]
		parent, _, nested := strings.Cut(k.Path, ".")
		if !nested {
			parent = ""
		}
		if parent != current {
			current = parent
			title := parent
			if title == "" {
				title = "General"
			}
			fmt.Fprintf(&b, "\n## %s\n\n| key | environment | default | meaning |\n| --- | --- | --- | --- |\n", title)
		}
		def := "empty"
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		if k.Dev != "" {
			def += ", `weir dev`: `" + k.Dev + "`"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s (%s) |\n", k.Path, k.Env(), def, strings.ReplaceAll(k.Help, "|", "\\|"), k.Type)
	}
	return []byte(b.String())
}

// wrap breaks s into lines of at most width characters, at spaces.
func wrap(s string, width int) []string {
	var lines []string
	line := ""
	for _, w := range strings.Fields(s) {
		if line != "" && len(line)+1+len(w) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	return append(lines, line)
}
