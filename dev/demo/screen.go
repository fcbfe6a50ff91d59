package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Screen shows a story that is told line by line, with a few lines at its end
// that change in place. Where nothing can change in place, in a file or a log,
// there are only the lines of the story, without any control character.
type Screen struct {
	out     io.Writer
	inPlace bool
	color   bool

	mu    sync.Mutex
	drawn int // lines in place, which the next drawing replaces
	live  []string
}

// NewScreen makes a screen. inPlace says that out is a terminal; color that it may
// be coloured, which only a terminal is.
func NewScreen(out io.Writer, inPlace, color bool) *Screen {
	return &Screen{out: out, inPlace: inPlace, color: inPlace && color}
}

// Print adds lines that stay.
func (s *Screen) Print(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draw(fmt.Sprintf(format, args...) + "\n")
}

// Live replaces the lines in place; without any they are gone.
func (s *Screen) Live(lines ...string) {
	if !s.inPlace {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = lines
	s.draw("")
}

// draw writes in one piece, so that a terminal never shows half of it. It is
// called with the lock held.
func (s *Screen) draw(stays string) {
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", s.drawn)
	}
	b.WriteString(stays)
	for _, line := range s.live {
		// Without wrapping, a line too long for the window is cut and remains one line.
		b.WriteString("\x1b[?7l" + line + "\x1b[?7h\n")
	}
	s.drawn = len(s.live)
	_, _ = io.WriteString(s.out, b.String()) // a screen that is gone is no reason to stop
}

// Colours by what they say.
const (
	bold  = "1"
	faint = "2"
	good  = "32"
	wrong = "31"
	busy  = "33"
	link  = "36"
)

func (s *Screen) paint(color, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// mark is the sign in front of a check.
func (s *Screen) mark(ok bool) string {
	switch {
	case s.inPlace && ok:
		return s.paint(good, "✓")
	case s.inPlace:
		return s.paint(wrong, "✗")
	case ok:
		return "ok    "
	default:
		return "FAILED"
	}
}

// table lines columns up; the first row is the header. Cells hold no colours.
func (s *Screen) table(rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for n, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-len([]rune(cell))+2))
			}
		}
		line := b.String()
		if n == 0 {
			line = s.paint(bold, line)
		}
		s.Print("   %s", line)
	}
}

// buildView shows what a stack says while it starts: on a terminal the build under
// way is one line in place with a running clock, and what is done stays.
type buildView struct {
	screen *Screen
	began  time.Time
	stop   chan struct{}
	done   chan struct{}

	mu   sync.Mutex
	rest string
	now  string // what goes on
}

func newBuildView(screen *Screen) *buildView {
	v := &buildView{screen: screen, began: time.Now(), now: "looking what has to be built", stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(v.done)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-v.stop:
				screen.Live()
				return
			case <-ticker.C:
				v.mu.Lock()
				v.tick()
				v.mu.Unlock()
			}
		}
	}()
	return v
}

// tick is called with the lock held.
func (v *buildView) tick() {
	clock := time.Since(v.began).Round(time.Second).String()
	v.screen.Live("   " + v.screen.paint(busy, fmt.Sprintf("%6s", clock)) + "  " + v.now)
}

// buildWords put the stack's names of its builds into the demo's sentences.
var buildWords = strings.NewReplacer("building   build ", "building   ", "done       build ", "built      ")

// Write takes the stack's progress, a line each.
func (v *buildView) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rest += string(p)
	for {
		line, rest, ok := strings.Cut(v.rest, "\n")
		if !ok {
			return len(p), nil
		}
		v.rest = rest
		line = buildWords.Replace(line)
		if v.screen.inPlace && strings.HasPrefix(line, "building") {
			v.now = line
			v.tick()
			continue
		}
		v.now = "starting"
		v.tick()
		v.screen.Print("   %s", line)
	}
}

// end stops the clock and takes the line in place away.
func (v *buildView) end() {
	close(v.stop)
	<-v.done
}
