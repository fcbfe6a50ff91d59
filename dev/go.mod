module github.com/penstock/penstock/dev

go 1.26.0

replace github.com/penstock/penstock => ../
