package carrier

var Available = available
