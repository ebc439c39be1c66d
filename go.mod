module adit

go 1.26
