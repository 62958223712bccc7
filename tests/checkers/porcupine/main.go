// Judges rows' histories with porcupine, a published linearizability checker, so that ours is held to another one's
// verdicts. Standard input: one JSON array of operations a line (docs/formats/history.md). Standard output: a line each,
// `true` or `false`.
//
// The model is written for itself, from the meaning of the operations, not from the Rust one. An operation of unknown
// outcome returns at the end of time with any answer: taking effect after everything else is the same as never.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/anishathalye/porcupine"
)

type column struct {
	Family    string `json:"family"`
	Qualifier string `json:"qualifier"`
}

type versions struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

type mutation struct {
	Do        string    `json:"do"`
	Family    string    `json:"family"`
	Qualifier string    `json:"qualifier"`
	Version   int64     `json:"version"`
	Value     string    `json:"value"`
	Versions  *versions `json:"versions"`
}

type cell struct {
	Family    string `json:"family"`
	Qualifier string `json:"qualifier"`
	Version   int64  `json:"version"`
	Value     string `json:"value"`
}

type predicate struct {
	Newest struct {
		Column column `json:"column"`
		Value  string `json:"value"`
	} `json:"newest"`
}

type operation struct {
	Action struct {
		Kind       string     `json:"kind"`
		Mutations  []mutation `json:"mutations"`
		Predicate  *predicate `json:"predicate"`
		OnMatch    []mutation `json:"on_match"`
		OnMismatch []mutation `json:"on_mismatch"`
		Column     column     `json:"column"`
		By         int64      `json:"by"`
	} `json:"action"`
	Call     int64  `json:"call"`
	Returned *int64 `json:"returned"`
	Outcome  string `json:"outcome"`
	Seen     *struct {
		Cells   []cell `json:"cells"`
		Matched *bool  `json:"matched"`
	} `json:"seen"`
}

// A row: cells by column and version; counters apart, because their versions are the servers'.
type row struct {
	cells    map[string]map[int64]string
	counters map[string]int64
}

func (r row) copy() row {
	next := row{map[string]map[int64]string{}, map[string]int64{}}
	for at, cells := range r.cells {
		next.cells[at] = map[int64]string{}
		for version, value := range cells {
			next.cells[at][version] = value
		}
	}
	for at, count := range r.counters {
		next.counters[at] = count
	}
	return next
}

func (r row) apply(mutations []mutation) row {
	next := r.copy()
	for _, m := range mutations {
		at := m.Family + "\x00" + m.Qualifier
		switch m.Do {
		case "put":
			if next.cells[at] == nil {
				next.cells[at] = map[int64]string{}
			}
			next.cells[at][m.Version] = m.Value
		default:
			for column, cells := range next.cells {
				covered := m.Do == "delete_row" || (m.Do == "delete_family" && strings.HasPrefix(column, m.Family+"\x00")) || column == at
				for version := range cells {
					if covered && (m.Versions == nil || (m.Versions.From <= version && version <= m.Versions.To)) {
						delete(cells, version)
					}
				}
			}
			for column := range next.counters {
				if m.Do == "delete_row" || (m.Do == "delete_family" && strings.HasPrefix(column, m.Family+"\x00")) || column == at {
					delete(next.counters, column)
				}
			}
		}
	}
	return next
}

func (r row) newest(c column) (string, bool) {
	newest, value, found := int64(math.MinInt64), "", false
	for version, v := range r.cells[c.Family+"\x00"+c.Qualifier] {
		if version >= newest {
			newest, value, found = version, v, true
		}
	}
	return value, found
}

// The row as text: counters by value alone.
func (r row) text() string {
	var lines []string
	for at, cells := range r.cells {
		for version, value := range cells {
			lines = append(lines, at+"\x00"+strconv.FormatInt(version, 10)+"\x00"+value)
		}
	}
	for at, count := range r.counters {
		lines = append(lines, at+"\x00#"+strconv.FormatInt(count, 10))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// Eight bytes, big endian, in the history's escapes.
func count(value string) (int64, bool) {
	var bytes []byte
	for i := 0; i < len(value); i++ {
		if value[i] != '%' {
			bytes = append(bytes, value[i])
			continue
		}
		if i+2 >= len(value) {
			return 0, false
		}
		n, err := strconv.ParseUint(value[i+1:i+3], 16, 8)
		if err != nil {
			return 0, false
		}
		bytes = append(bytes, byte(n))
		i += 2
	}
	if len(bytes) != 8 {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(bytes)), true
}

func shown(r row, cells []cell) string {
	seen := row{map[string]map[int64]string{}, map[string]int64{}}
	newest := map[string]int64{}
	for _, c := range cells {
		at := c.Family + "\x00" + c.Qualifier
		if n, ok := count(c.Value); ok && c.Qualifier == "n" {
			if last, found := newest[at]; !found || c.Version > last {
				newest[at], seen.counters[at] = c.Version, n
			}
			continue
		}
		if seen.cells[at] == nil {
			seen.cells[at] = map[int64]string{}
		}
		seen.cells[at][c.Version] = c.Value
	}
	return seen.text()
}

func step(state, input, output interface{}) (bool, interface{}) {
	r, op := state.(row), input.(operation)
	ok := op.Outcome == "ok"
	switch op.Action.Kind {
	case "write":
		return true, r.apply(op.Action.Mutations)
	case "read":
		return r.text() == shown(r, op.Seen.Cells), r
	case "check_and_mutate":
		value, found := r.newest(op.Action.Predicate.Newest.Column)
		matched := found && value == op.Action.Predicate.Newest.Value
		if ok && *op.Seen.Matched != matched {
			return false, r
		}
		if matched {
			return true, r.apply(op.Action.OnMatch)
		}
		return true, r.apply(op.Action.OnMismatch)
	case "increment":
		next := r.copy()
		at := op.Action.Column.Family + "\x00" + op.Action.Column.Qualifier
		next.counters[at] += op.Action.By
		if ok {
			n, _ := count(op.Seen.Cells[0].Value)
			if n != next.counters[at] {
				return false, r
			}
		}
		return true, next
	}
	panic("an operation that this model does not know: " + op.Action.Kind)
}

func main() {
	model := porcupine.Model{
		Init:  func() interface{} { return row{map[string]map[int64]string{}, map[string]int64{}} },
		Step:  step,
		Equal: func(a, b interface{}) bool { return a.(row).text() == b.(row).text() },
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for lines.Scan() {
		var operations []operation
		if err := json.Unmarshal(lines.Bytes(), &operations); err != nil {
			panic(err)
		}
		var history []porcupine.Operation
		for client, op := range operations {
			end := int64(math.MaxInt64)
			if op.Outcome == "ok" {
				end = *op.Returned
			}
			history = append(history, porcupine.Operation{ClientId: client, Input: op, Call: op.Call, Output: nil, Return: end})
		}
		fmt.Fprintln(out, porcupine.CheckOperations(model, history))
	}
}
