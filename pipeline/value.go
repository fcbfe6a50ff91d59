package pipeline

// Value is text that may hold ${ } expressions. `$${` stands for a literal ${.
type Value struct {
	// Text is the value as in the file, its quotes undone.
	Text     string
	Position Position

	template *template
}
