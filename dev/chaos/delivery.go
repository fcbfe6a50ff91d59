package chaos

import (
	"context"
	"time"
)

// delivery are scenarios about what is sent.
var delivery = []Scenario{
	{
		Name:  "duplicates",
		What:  "Every event is delivered five times, in both forms and in any order, by 32 senders at once: each runs once.",
		Short: true,
		Bound: 3 * time.Minute,
		Run: func(ctx context.Context, b *Bench) error {
			events := b.Objects("orders", b.N(1000))
			return b.Deliver(ctx, Load{Events: b.Shuffle(Repeat(events, 5)), Senders: 32})
		},
	},
}
