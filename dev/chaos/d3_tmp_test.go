package chaos

import ("testing";"os";"strings";"strconv")

func TestD3(t *testing.T) {
	o := Options{Scenarios: strings.Split(os.Getenv("SC"), ","), Out: os.Stdout, Folder: "/tmp/d3/state", Keep: true, Verbose: os.Getenv("V") != ""}
	if os.Getenv("SZ") == "short" { o.Size = Short }
	o.Seed, _ = strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	o.WorkerBinary, o.FunctionsBinary = os.Getenv("WB"), os.Getenv("FB")
	if _, err := Run(t.Context(), o); err != nil { t.Fatal(err) }
}
