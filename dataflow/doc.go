// Package dataflow launches, finds, watches, cancels and drains Dataflow jobs over the API's REST form, v1b3.
//
// Each method is one call with one clear outcome, and none is retried here: what to do after an answer, and after none,
// is a protocol that spans processes and belongs to whoever keeps durable state. The outcome that the protocol turns on
// is KindUnanswered: a write that may have been carried out though no answer to it came.
package dataflow
