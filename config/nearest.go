package config

// Nearest returns the name that s is most likely a misspelling of, and empty
// if it is like none.
func Nearest(s string, names []string) (best string) {
	if len(s) > 64 {
		return ""
	}
	limit := max(1, min(3, len(s)/3))
	for _, name := range names {
		if d := distance(s, name); d <= limit && (best == "" || d < distance(s, best)) {
			best = name
		}
	}
	return best
}

// distance is how many bytes have to be inserted, left out, replaced or
// swapped with their neighbour to make b of a.
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
