// Package cli is the command line of Penstock: commands over what package service answers. It takes its streams and its
// environment from the caller, so that a program of one's own can carry it.
//
// With -o json each command writes one JSON document, to which fields are only ever added. Text, tables and their columns
// may change.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstock/penstock/cloudlog"
)

// Exit codes.
const (
	ExitOK      = 0
	ExitFailed  = 1 // what was asked for could not be done, or is not so
	ExitUsage   = 2 // the command line is wrong
	ExitInvalid = 3 // a pipelines file is invalid
	// ExitIncomplete says that reconcile found objects that are missed or unknown, and still are.
	ExitIncomplete = 4
)

// IO is what a command line runs on.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Environ  func() []string
	// Width is the width in columns of the terminal that Out writes to; 0 when it is no terminal.
	Width int
}

// Process is the process's own IO.
func Process() IO {
	std := IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Environ: os.Environ}
	if fd := int(os.Stdout.Fd()); term.IsTerminal(fd) {
		std.Width = 80
		if width, _, err := term.GetSize(fd); err == nil && width > 0 {
			std.Width = width
		}
	}
	return std
}

// Run runs one command line and returns the exit code. What failed is on std.Err by then.
func Run(ctx context.Context, std IO, args []string) int {
	a := &app{std: std}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(std.In)
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	code := ExitFailed
	var coded *exitError
	switch {
	case errors.As(err, &coded):
		code = coded.code
		err = coded.err
	case !a.begun:
		code = ExitUsage
	}
	if err != nil {
		fmt.Fprintln(std.Err, "penstock: "+lines(err.Error()))
		if code == ExitUsage {
			fmt.Fprintln(std.Err, "Run penstock --help, or penstock COMMAND --help.")
		}
	}
	return code
}

// app is the state that the commands of one command line share.
type app struct {
	std   IO
	env   *environment
	out   *printer
	begun bool // the command line was understood: what fails from now on is no wrong usage

	output string // -o
}

// exitError ends the program with a code. err is nil where all has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exitError{ExitUsage, fmt.Errorf(format, args...)}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "penstock",
		Short: "Start Dataflow pipelines when their data arrives, once each",
		Long: `Start Dataflow pipelines when their data arrives, once each.

Flags default to the environment, and that to a local stack: where TEMPORAL_ADDRESS is
not set, .penstock/dev.env of the working tree is read, which "make dev" writes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 invalid pipelines file, 4 objects missed.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if err := a.prepare(); err != nil {
				return err
			}
			a.begun = true
			return nil
		},
	}
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "", "table, plain (nothing cut, no colour) or json; default table on a terminal, else plain")
	if err := root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "plain", "json"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined above
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddCommand(a.initCommand(), a.lintCommand(), a.explainCommand(), a.runsCommand(), a.describeCommand(), a.cancelCommand(), a.retryCommand(), a.dlqCommand(), a.reconcileCommand(), a.sweepCommand(), a.setupCommand(), a.rollbackCommand(), a.buildsCommand(), a.doctorCommand(), a.versionCommand())
	return root
}

// prepare reads what every command needs, once the command line is understood.
func (a *app) prepare() error {
	p, err := newPrinter(a.std, a.output)
	if err != nil {
		return err
	}
	a.out = p
	a.env, err = readEnvironment(a.std)
	if err != nil {
		return &exitError{ExitFailed, err}
	}
	return nil
}

// logger is for what libraries log: warnings and worse.
func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.std.Err, &slog.HandlerOptions{Level: max(slog.LevelWarn, cloudlog.Level(a.env.get("PENSTOCK_LOG_LEVEL")))}))
}
