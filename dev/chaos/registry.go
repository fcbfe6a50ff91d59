package chaos

import "slices"

// Scenarios are all there are, in the order in which they run. Each file of scenarios
// has a list of its own.
func Scenarios() []Scenario {
	return slices.Concat(
		delivery,
		outages,
		lifecycle,
		doingAgain,
		quotas,
		together,
		workers,
		dataflowTrouble,
		status,
	)
}
