package faults

import (
	"errors"
	"strings"
	"time"

	"github.com/penstock/penstock/dev/eventarc"
)

// Deliver puts the rules at Events into a broker's options.
func (l *Lab) Deliver(o *eventarc.Options) {
	o.Route, o.Acknowledged = l.route, l.acknowledged
}

func eventTarget(trigger string, e eventarc.Event) target {
	if job := e.Extensions["job"]; job != "" {
		return target{place: Events, operation: trigger, subject: job, job: true}
	}
	return target{place: Events, operation: trigger, subject: strings.TrimPrefix(e.Subject, "objects/")}
}

// route says when each delivery of an event to a trigger begins; an event that is lost has none.
func (l *Lab) route(trigger string, e eventarc.Event) []time.Duration {
	deliveries := []time.Duration{0}
	for _, s := range l.strikes(eventTarget(trigger, e), func(r Rule) bool { return r.Fault != Unacknowledged }, func(f Fault) bool { return f == Lose }) {
		switch s.Fault {
		case Lose:
			return nil
		case Duplicate:
			for range max(s.Copies, 1) {
				deliveries = append(deliveries, deliveries[0]+s.delay())
			}
		case Delay, Shuffle:
			for i := range deliveries {
				deliveries[i] += s.delay()
			}
		}
	}
	return deliveries
}

// acknowledged makes the broker deliver again what a function has handled.
func (l *Lab) acknowledged(trigger string, e eventarc.Event) error {
	if len(l.strikes(eventTarget(trigger, e), func(r Rule) bool { return r.Fault == Unacknowledged }, never)) > 0 {
		return errors.New("the acknowledgement was lost (a fault)")
	}
	return nil
}
