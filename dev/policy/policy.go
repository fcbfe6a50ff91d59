package policy

import (
	"fmt"
	"slices"
)

// Violation is one resource that breaks one rule.
type Violation struct {
	Rule    string
	Address string // of the resource, or of the group that something is missing from
	Message string // what is wrong, and what to try
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s (%s)", v.Address, v.Message, v.Rule) }

// Rule is something that must be true of every deployment.
type Rule struct {
	Name string
	// Says completes "every deployment …".
	Says  string
	check func(*Plan, report)
	// twin breaks the rule in a plan, and says whether the plan had anything to break.
	twin func(*Plan) bool
}

// report tells a violation by the address of a resource.
type report func(address, format string, args ...any)

// Rules lists the rules, in the order that they are told in.
func Rules() []Rule { return slices.Concat(exposure, identities, sources, delivery, safekeeping) }

// Check lists what in the plan breaks a rule.
func Check(p *Plan) []Violation {
	var found []Violation
	for _, rule := range Rules() {
		found = append(found, rule.violations(p)...)
	}
	return found
}

func (r Rule) violations(p *Plan) []Violation {
	var found []Violation
	r.check(p, func(address, format string, args ...any) {
		found = append(found, Violation{r.Name, address, fmt.Sprintf(format, args...)})
	})
	return found
}

// Proof is what became of a rule's twin.
type Proof struct {
	Rule string
	// Caught are the violations that the broken plan has; none means that the rule
	// caught nothing. Idle says that the plan has nothing that the rule is about.
	Caught []Violation
	Idle   bool
}

// Prove breaks a plan that keeps every rule by each rule's twin, one at a time.
func Prove(p *Plan) []Proof {
	var proofs []Proof
	for _, rule := range Rules() {
		broken := p.clone()
		if !rule.twin(broken) {
			proofs = append(proofs, Proof{Rule: rule.Name, Idle: true})
			continue
		}
		proofs = append(proofs, Proof{Rule: rule.Name, Caught: rule.violations(broken)})
	}
	return proofs
}

// breaks makes a twin that changes the first resource of one of the types that change takes.
func breaks(change func(*Resource) bool, types ...string) func(*Plan) bool {
	return func(p *Plan) bool {
		return slices.ContainsFunc(p.of(types...), change)
	}
}

// set makes a change of one attribute, which must be there already.
func set(path string, value any) func(*Resource) bool {
	return func(r *Resource) bool {
		last := len(path) - 1
		for last >= 0 && path[last] != '.' {
			last--
		}
		var of any = r.Values
		if last >= 0 {
			of = r.get(path[:last])
		}
		block, ok := of.(map[string]any)
		if !ok {
			return false
		}
		if _, ok := block[path[last+1:]]; !ok {
			return false
		}
		block[path[last+1:]] = value
		return true
	}
}

// remove makes a twin that takes out the first resource that is meant.
func remove(is func(*Resource) bool) func(*Plan) bool {
	return func(p *Plan) bool {
		at := slices.IndexFunc(p.Resources, is)
		if at < 0 {
			return false
		}
		p.Resources = slices.Delete(p.Resources, at, at+1)
		return true
	}
}
