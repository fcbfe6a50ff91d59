package dataflowemulator

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// refuse makes the error of one refusal in the form of Dataflow's: an incident number in parentheses before the text, and details where the API has them.
func refuse(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	s := status.New(code, fmt.Sprintf("(%s): %s", incident(), text))
	if len(details) > 0 {
		if with, err := s.WithDetails(details...); err == nil {
			s = with
		}
	}
	return s.Err()
}

func invalid(format string, args ...any) error {
	return refuse(codes.InvalidArgument, fmt.Sprintf(format, args...))
}

func notFound(format string, args ...any) error {
	return refuse(codes.NotFound, fmt.Sprintf(format, args...))
}

// modificationFailed is the refusal of a change of state that the job's state does not allow.
func modificationFailed(format string, args ...any) error {
	return refuse(codes.FailedPrecondition, fmt.Sprintf("Workflow modification failed. Causes: (%s): %s", incident(), fmt.Sprintf(format, args...)))
}

func incident() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
