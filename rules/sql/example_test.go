package sql_test

import (
	"fmt"

	"github.com/weir-iot/weir/rules/sql"
)

func ExampleParse() {
	stmt, err := sql.Parse(`select temp as celsius, topic(2) from 'sensors/+/temp' where temp>80`)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(stmt.Filter)
	for _, item := range stmt.Select.Items {
		fmt.Println(sql.Print(item.Expr), item.Alias)
	}
	fmt.Println(stmt)
	// Output:
	// sensors/+/temp
	// temp [celsius]
	// topic(2) []
	// SELECT temp AS celsius, topic(2) FROM 'sensors/+/temp' WHERE temp > 80
}

func ExampleError_Detail() {
	_, err := sql.Parse(`SELECT temp FROM sensors/# WHERE temp == 80`)
	fmt.Println(err)
	fmt.Println()
	fmt.Println(err.(*sql.Error).Detail())
	// Output:
	// 1:18: expected a topic filter in single quotes, found sensors/#
	//
	// 1:18: expected a topic filter in single quotes, found sensors/#
	//   SELECT temp FROM sensors/# WHERE temp == 80
	//                    ^^^^^^^^^
	// hint: write FROM 'sensors/#'
}

func ExampleParseTemplate() {
	parts, err := sql.ParseTemplate(`${topic(2)}/${get(site, 'id')}.json`)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range parts {
		if p.Expr != nil {
			fmt.Println("expression", sql.Print(p.Expr))
		} else {
			fmt.Println("text", p.Text)
		}
	}
	// Output:
	// expression topic(2)
	// text /
	// expression get(site, 'id')
	// text .json
}

func ExampleWalk() {
	x, err := sql.ParseExpr(`a.b > @limit OR c IN (d, upper(e))`)
	if err != nil {
		fmt.Println(err)
		return
	}
	sql.Walk(x, func(x sql.Expr) bool {
		if path, ok := x.(*sql.Path); ok {
			fmt.Println(path.Names)
		}
		return true
	})
	// Output:
	// [a b]
	// [c]
	// [d]
	// [e]
}
