//go:build !unix

package folder

// openNonblock is not needed where folders hold no pipes.
const openNonblock = 0
