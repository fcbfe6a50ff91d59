// Package cost estimates what a deployment costs in a month beside Dataflow itself, by a formula that docs/deploy.md explains.
package cost

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// Prices are list prices, with where and when they were read.
type Prices struct {
	Read     string   `json:"read"` // year and month
	Currency string   `json:"currency"`
	Where    string   `json:"where"`
	Temporal Temporal `json:"temporal"`

	Functions struct {
		Source             string  `json:"source"`
		VCPUSecond         float64 `json:"vCPUSecond"`
		GiBSecond          float64 `json:"GiBSecond"`
		PerMillionRequests float64 `json:"perMillionRequests"`
		RoundedUpTo        float64 `json:"roundedUpToSeconds"`
	} `json:"functions"`
	PubSub struct {
		Source string  `json:"source"`
		PerTiB float64 `json:"perTiB"`
		Least  float64 `json:"leastBytes"` // of a publish, and of a push
	} `json:"pubsub"`
	Worker struct {
		Source     string  `json:"source"`
		VCPUSecond float64 `json:"vCPUSecond"`
		GiBSecond  float64 `json:"GiBSecond"`
	} `json:"worker"`
	Storage struct {
		Source            string  `json:"source"`
		PerThousandWrites float64 `json:"perThousandWrites"`
	} `json:"storage"`
	Logging struct {
		Source string  `json:"source"`
		PerGiB float64 `json:"perGiB"`
	} `json:"logging"`
	Dataflow struct {
		Source       string  `json:"source"`
		CallsAMinute float64 `json:"callsAMinute"` // a quota: calls cost nothing
	} `json:"dataflow"`
}

// Temporal are the prices of Temporal Cloud.
type Temporal struct {
	Source      string  `json:"source"`
	Plans       []Plan  `json:"plans"`
	ActiveGBh   float64 `json:"activeGBh"`
	RetainedGBh float64 `json:"retainedGBh"`
}

// Plan is a plan of Temporal Cloud: it costs Base, or Share of what is used if that is more, and what is used.
type Plan struct {
	Name                string  `json:"name"`
	Base                float64 `json:"base"`
	Share               float64 `json:"share"`
	IncludedActions     float64 `json:"includedActions"`
	IncludedActiveGBh   float64 `json:"includedActiveGBh"`
	IncludedRetainedGBh float64 `json:"includedRetainedGBh"`
	Tiers               []Tier  `json:"tiers"`
}

// Tier is the price of the actions from the tier before up to UpTo a month; zero: all others.
type Tier struct {
	UpTo       float64 `json:"upTo"`
	PerMillion float64 `json:"perMillion"`
}

//go:embed prices.json
var listed []byte

// ListPrices are those of prices.json.
func ListPrices() Prices {
	p, err := ParsePrices(listed)
	if err != nil {
		panic(err) // it is compiled in, and tested
	}
	return p
}

// ParsePrices reads prices in the form of prices.json.
func ParsePrices(data []byte) (Prices, error) {
	var p Prices
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("parse the prices: %w; take the form of dev/cost/prices.json", err)
	}
	return p, nil
}

// Load is what a deployment does in a month. DefaultLoad has what was measured; the rest is for each to say.
type Load struct {
	Events float64 // that are delivered
	Share  float64 // of events that start a run; the others are decided and cost a function's time
	Jobs   float64 // Dataflow jobs of a run
	Ledger bool    // whether runs leave final records, as terraform/ has them
	Dedupe bool    // whether they claim their keys besides

	EventBytes float64 // of an event's message with its attributes
	Handling   float64 // seconds that an event is in a function
	VCPU, GiB  float64 // of an instance of a function
	LogBytes   float64 // of a decision's line in the log

	HistoryBytes  float64 // of a run's and its job's histories, for each job
	RunSeconds    float64 // that a run is open
	RetentionDays float64 // of the namespace

	Locations             float64 // that are looked at once a day
	WorkerVCPU, WorkerGiB float64
	Instances             float64 // of a fixed worker
	// AwakeSeconds is how long a serverless instance stays up after there is work: Temporal waits for 90 s of quiet, and looks
	// each 60 s.
	AwakeSeconds float64
	// RunsASecond is what one instance of the worker gets done, for both forms.
	RunsASecond float64
}

// DefaultLoad is one job for each event, on terraform's defaults.
func DefaultLoad(events float64) Load {
	return Load{
		Events: events, Share: 1, Jobs: 1, Ledger: true,
		EventBytes: 1500, Handling: 0.05, VCPU: 1, GiB: 0.5, LogBytes: 800,
		HistoryBytes: 38000, RunSeconds: 900, RetentionDays: 30,
		Locations: 1, WorkerVCPU: 1, WorkerGiB: 1, Instances: 2, AwakeSeconds: 150, RunsASecond: 5,
	}
}

const (
	hours = 730 // in a month
	month = hours * 3600.0

	// What a run that goes well costs in Temporal's actions; TestActions holds it to saved histories.
	actionsOfRun   = 4 // started, a version marker, search attributes twice
	actionsOfJob   = 9 // its child's start twice over, search attributes, launch and report, three signals, a timer
	actionsOfFinal = 1
	actionsOfClaim = 1
	// A daily look: the Schedule's action, the signal with start, its list and its timers.
	actionsOfLook = 8

	// Dataflow tells of QUEUED or PENDING, RUNNING, and the end; a signal each.
	statesOfJob = 3
	// Look up, launch, metrics.
	callsOfJob = 3
)

// Actions are the billed actions of Temporal.
func (l Load) Actions() float64 {
	run := actionsOfRun + l.Jobs*actionsOfJob
	if l.Ledger {
		run += actionsOfFinal
	}
	if l.Dedupe {
		run += actionsOfClaim
	}
	return l.runs()*run + 30*l.Locations*actionsOfLook
}

func (l Load) runs() float64 { return l.Events * l.Share }

// deliveries are the requests that functions get.
func (l Load) deliveries() float64 { return l.Events + l.runs()*l.Jobs*statesOfJob }

// Calls are those of Dataflow's API.
func (l Load) Calls() float64 { return l.runs()*l.Jobs*callsOfJob + 30*l.Locations }

// Estimate is what a load costs in a month, by what it is paid for.
type Estimate struct {
	Load       Load
	Actions    float64 // billed by Temporal
	Plan       string  // of Temporal Cloud: the cheapest
	Temporal   float64
	Functions  float64
	PubSub     float64
	Storage    float64 // writes to the ledger
	Logging    float64
	Fixed      float64 // the worker, if it is fixed
	Serverless float64 // the worker, if it is serverless
	Calls      float64 // of Dataflow's API, which cost nothing
	QuotaShare float64 // the share of their quota that they take, if they were spread evenly
}

// Estimate applies the formula.
func (p Prices) Estimate(l Load) Estimate {
	e := Estimate{Load: l, Actions: l.Actions(), Calls: l.Calls()}
	e.Plan, e.Temporal = p.Temporal.cost(l)

	// Each request is rounded up by itself, as if no two ever shared an instance: the most that it can be.
	seconds := math.Ceil(l.Handling/p.Functions.RoundedUpTo-1e-9) * p.Functions.RoundedUpTo
	e.Functions = l.deliveries() * (seconds*(l.VCPU*p.Functions.VCPUSecond+l.GiB*p.Functions.GiBSecond) + p.Functions.PerMillionRequests/1e6)
	// Published once and pushed once.
	e.PubSub = l.deliveries() * 2 * max(l.EventBytes, p.PubSub.Least) / (1 << 40) * p.PubSub.PerTiB
	writes := 0.0
	if l.Ledger {
		writes++
	}
	if l.Dedupe {
		writes++
	}
	e.Storage = l.runs() * writes / 1000 * p.Storage.PerThousandWrites
	e.Logging = l.deliveries() * l.LogBytes / (1 << 30) * p.Logging.PerGiB

	instance := l.WorkerVCPU*p.Worker.VCPUSecond + l.WorkerGiB*p.Worker.GiBSecond
	busy := l.runs() / l.RunsASecond // seconds of one instance
	e.Fixed = max(l.Instances*month, busy) * instance
	// Work comes at random: the share of time in which there was some within AwakeSeconds. A run has some when it begins and with each
	// news of its jobs, but for the first, which comes right after the launch.
	wakes := l.runs()*(1+l.Jobs*(statesOfJob-1)) + 30*l.Locations
	awake := (1 - math.Exp(-wakes/month*l.AwakeSeconds)) * month
	e.Serverless = max(awake, busy) * instance
	e.QuotaShare = e.Calls / (hours * 60) / p.Dataflow.CallsAMinute
	return e
}

// cost is that of the cheapest plan.
func (t Temporal) cost(l Load) (plan string, least float64) {
	gb := l.runs() * l.Jobs * l.HistoryBytes / 1e9
	active, retained := gb*l.RunSeconds/3600, gb*l.RetentionDays*24
	least = math.Inf(1)
	for _, p := range t.Plans {
		used := p.actions(max(l.Actions()-p.IncludedActions, 0)) +
			max(active-p.IncludedActiveGBh, 0)*t.ActiveGBh + max(retained-p.IncludedRetainedGBh, 0)*t.RetainedGBh
		if whole := used + max(p.Base, p.Share*used); whole < least {
			plan, least = p.Name, whole
		}
	}
	return plan, least
}

// actions is the price of n of them.
func (p Plan) actions(n float64) float64 {
	price, from := 0.0, 0.0
	for _, t := range p.Tiers {
		upTo := t.UpTo
		if upTo == 0 || upTo > n {
			upTo = n
		}
		if upTo > from {
			price += (upTo - from) / 1e6 * t.PerMillion
			from = upTo
		}
	}
	return price
}

// Total is the sum, with the worker of the one form or the other.
func (e Estimate) Total(serverless bool) float64 {
	worker := e.Fixed
	if serverless {
		worker = e.Serverless
	}
	return e.Temporal + e.Functions + e.PubSub + e.Storage + e.Logging + worker
}

// Write writes estimates side by side, as a table of Markdown.
func (p Prices) Write(w io.Writer, estimates []Estimate) error {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	row := func(name string, cell func(Estimate) string) {
		fmt.Fprint(t, "| ", name)
		for _, e := range estimates {
			fmt.Fprint(t, "\t| ", cell(e))
		}
		fmt.Fprintln(t, "\t|")
	}
	money := func(of func(Estimate) float64) func(Estimate) string {
		return func(e Estimate) string { return fmt.Sprintf("%.2f", of(e)) }
	}
	row(p.Currency+" a month", func(e Estimate) string { return count(e.Load.Events) + " events" })
	row("---", func(Estimate) string { return "---:" })
	row("Temporal's actions (number)", func(e Estimate) string { return count(e.Actions) })
	row("Temporal Cloud", func(e Estimate) string { return fmt.Sprintf("%.2f (%s)", e.Temporal, e.Plan) })
	row("functions", money(func(e Estimate) float64 { return e.Functions }))
	row("Pub/Sub and Eventarc", money(func(e Estimate) float64 { return e.PubSub }))
	row("ledger writes", money(func(e Estimate) float64 { return e.Storage }))
	row("logs", money(func(e Estimate) float64 { return e.Logging }))
	row("worker, fixed", money(func(e Estimate) float64 { return e.Fixed }))
	row("worker, serverless", money(func(e Estimate) float64 { return e.Serverless }))
	row("**together, fixed**", money(func(e Estimate) float64 { return e.Total(false) }))
	row("**together, serverless**", money(func(e Estimate) float64 { return e.Total(true) }))
	row("Dataflow API calls (number)", func(e Estimate) string { return count(e.Calls) })
	row("of their quota, if spread evenly", func(e Estimate) string { return fmt.Sprintf("%.2g%%", 100*e.QuotaShare) })
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the estimate: %w", err)
	}
	return nil
}

// count prints a number as people say it.
func count(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.4gM", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.4gk", n/1e3)
	}
	return fmt.Sprintf("%.0f", n)
}
