package awsapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/control/awsapi/query"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
)

func searchOperations() []operation {
	const index = "index/{indexName}"
	return []operation{
		op(IoT, "GetIndexingConfiguration", "*", (*API).getIndexing),
		op(IoT, "UpdateIndexingConfiguration", "*", (*API).updateIndexing, partly("no geolocation, no Device Defender")),
		op(IoT, "ListIndices", "*", (*API).listIndices),
		op(IoT, "DescribeIndex", index, (*API).describeIndex),
		op(IoT, "SearchIndex", index, (*API).searchIndex, partly("every search reads the fleet: there is no inverted index")),
		op(IoT, "GetStatistics", index, (*API).getStatistics),
		op(IoT, "GetCardinality", index, (*API).getCardinality),
		op(IoT, "GetPercentiles", index, (*API).getPercentiles),
		op(IoT, "GetBucketsAggregation", index, (*API).getBuckets),
	}
}

// The indices there are.
const (
	thingIndex = "AWS_Things"
	groupIndex = "AWS_ThingGroups"
)

type indexing struct {
	ThingIndexingConfiguration      *thingIndexing `json:"thingIndexingConfiguration,omitempty"`
	ThingGroupIndexingConfiguration *groupIndexing `json:"thingGroupIndexingConfiguration,omitempty"`
}

type thingIndexing struct {
	ThingIndexingMode             string          `json:"thingIndexingMode" is:"required =OFF|REGISTRY|REGISTRY_AND_SHADOW"`
	ThingConnectivityIndexingMode string          `json:"thingConnectivityIndexingMode,omitempty" is:"=OFF|STATUS"`
	DeviceDefenderIndexingMode    string          `json:"deviceDefenderIndexingMode,omitempty" is:"=OFF|VIOLATIONS"`
	NamedShadowIndexingMode       string          `json:"namedShadowIndexingMode,omitempty" is:"=OFF|ON"`
	ManagedFields                 []field         `json:"managedFields,omitempty"` // said in answers
	CustomFields                  []field         `json:"customFields,omitempty" is:"..20"`
	Filter                        *indexingFilter `json:"filter,omitempty"`
}

type indexingFilter struct {
	NamedShadowNames []string   `json:"namedShadowNames,omitempty" is:"..10" each:"1..64 ~shadow"`
	GeoLocations     []struct{} `json:"geoLocations,omitempty" refuse:"geolocation is not indexed here"`
}

type groupIndexing struct {
	ThingGroupIndexingMode string  `json:"thingGroupIndexingMode" is:"required =OFF|ON"`
	ManagedFields          []field `json:"managedFields,omitempty"`
	CustomFields           []field `json:"customFields,omitempty" is:"..20"`
}

type field struct {
	Name string `json:"name" is:"1..1024"`
	Type string `json:"type" is:"=Number|String|Boolean"`
}

var managedFields = []field{
	{"thingName", "String"}, {"thingId", "String"}, {"thingTypeName", "String"}, {"registry.version", "Number"}, {"registry.thingTypeName", "String"},
	{"registry.thingGroupNames", "String"}, {"shadow.version", "Number"}, {"shadow.hasDelta", "Boolean"},
	{"connectivity.connected", "Boolean"}, {"connectivity.timestamp", "Number"}, {"connectivity.disconnectReason", "String"},
}

func fieldsOf(list []registry.Field) []field {
	var out []field
	for _, f := range list {
		out = append(out, field{f.Name, f.Type})
	}
	return out
}

func fieldsTo(list []field) []registry.Field {
	var out []registry.Field
	for _, f := range list {
		out = append(out, registry.Field{Name: f.Name, Type: f.Type})
	}
	return out
}

func orOff(mode string) string {
	if mode == "" {
		return "OFF"
	}
	return mode
}

func (a *API) getIndexing(context.Context, *none) (*indexing, error) {
	i := a.o.Registry.Indexing()
	out := &indexing{
		&thingIndexing{ThingIndexingMode: orOff(i.Things), ThingConnectivityIndexingMode: orOff(i.Connectivity), DeviceDefenderIndexingMode: "OFF",
			NamedShadowIndexingMode: orOff(i.NamedShadow), ManagedFields: managedFields, CustomFields: fieldsOf(i.ThingFields)},
		&groupIndexing{ThingGroupIndexingMode: orOff(i.Groups), CustomFields: fieldsOf(i.GroupFields)},
	}
	if len(i.ShadowNames) > 0 {
		out.ThingIndexingConfiguration.Filter = &indexingFilter{NamedShadowNames: i.ShadowNames}
	}
	return out, nil
}

func (a *API) updateIndexing(ctx context.Context, q *indexing) (*none, error) {
	now := a.o.Registry.Indexing()
	if t := q.ThingIndexingConfiguration; t != nil {
		if orOff(t.DeviceDefenderIndexingMode) != "OFF" {
			return nil, notSupported("thingIndexingConfiguration.deviceDefenderIndexingMode", "there is no Device Defender here")
		}
		now.Things, now.Connectivity, now.NamedShadow = t.ThingIndexingMode, orOff(t.ThingConnectivityIndexingMode), orOff(t.NamedShadowIndexingMode)
		now.ThingFields, now.ShadowNames = fieldsTo(t.CustomFields), nil
		if t.Filter != nil {
			now.ShadowNames = t.Filter.NamedShadowNames
		}
	}
	if g := q.ThingGroupIndexingConfiguration; g != nil {
		now.Groups, now.GroupFields = g.ThingGroupIndexingMode, fieldsTo(g.CustomFields)
	}
	return &none{}, a.o.Registry.SetIndexing(ctx, now)
}

type listIndicesRequest struct {
	NextToken  string `json:"nextToken" in:"query"`
	MaxResults *int64 `json:"maxResults" in:"query" is:"1..500"`
}

type listIndicesResponse struct {
	IndexNames []string `json:"indexNames"`
	NextToken  string   `json:"nextToken,omitempty"`
}

func (a *API) indices() []string {
	i, out := a.o.Registry.Indexing(), []string{}
	if orOff(i.Groups) != "OFF" {
		out = append(out, groupIndex)
	}
	if orOff(i.Things) != "OFF" {
		out = append(out, thingIndex)
	}
	return out
}

func (a *API) listIndices(_ context.Context, q *listIndicesRequest) (*listIndicesResponse, error) {
	part, next, err := page("ListIndices", a.indices(), func(s *string) string { return *s }, q.NextToken, q.MaxResults, 500, false)
	if err != nil {
		return nil, err
	}
	return &listIndicesResponse{part, next}, nil
}

type describeIndexRequest struct {
	IndexName string `json:"indexName" in:"uri" is:"required 1..128 ~name"`
}

type describeIndexResponse struct {
	IndexName   string `json:"indexName"`
	IndexStatus string `json:"indexStatus"`
	Schema      string `json:"schema"`
}

// index checks that there is an index of the name.
func (a *API) index(name string) (string, error) {
	if !slices.Contains(a.indices(), name) {
		return "", notFound("Index %s does not exist: its indexing is off", clip(name))
	}
	return name, nil
}

func (a *API) describeIndex(_ context.Context, q *describeIndexRequest) (*describeIndexResponse, error) {
	name, err := a.index(q.IndexName)
	if err != nil {
		return nil, err
	}
	i := a.o.Registry.Indexing()
	schema := "REGISTRY"
	if name == thingIndex && i.Things == "REGISTRY_AND_SHADOW" {
		schema = "REGISTRY_AND_SHADOW"
	}
	if name == thingIndex && orOff(i.Connectivity) != "OFF" {
		schema += "_AND_CONNECTIVITY_STATUS"
	}
	return &describeIndexResponse{name, "ACTIVE", schema}, nil
}

type searchIndexRequest struct {
	IndexName    string `json:"indexName" is:"1..128 ~name" default:"AWS_Things"`
	QueryString  string `json:"queryString" is:"required 1..1000"`
	NextToken    string `json:"nextToken"`
	MaxResults   *int64 `json:"maxResults" is:"1..500"`
	QueryVersion string `json:"queryVersion" is:"=2017-09-30"`
}

type searchIndexResponse struct {
	NextToken   string           `json:"nextToken,omitempty"`
	Things      []*thingDocument `json:"things,omitempty"`
	ThingGroups []*groupDocument `json:"thingGroups,omitempty"`
}

type thingDocument struct {
	ThingName       string            `json:"thingName"`
	ThingID         string            `json:"thingId"`
	ThingTypeName   string            `json:"thingTypeName,omitempty"`
	ThingGroupNames []string          `json:"thingGroupNames,omitempty"`
	Attributes      map[string]string `json:"attributes,omitempty"`
	Shadow          string            `json:"shadow,omitempty"` // JSON
	Connectivity    *connectivity     `json:"connectivity,omitempty"`
}

type connectivity struct {
	Connected        bool   `json:"connected"`
	Timestamp        int64  `json:"timestamp,omitempty"` // milliseconds since 1970
	DisconnectReason string `json:"disconnectReason,omitempty"`
}

type groupDocument struct {
	ThingGroupName        string            `json:"thingGroupName"`
	ThingGroupID          string            `json:"thingGroupId"`
	ThingGroupDescription string            `json:"thingGroupDescription,omitempty"`
	Attributes            map[string]string `json:"attributes,omitempty"`
	ParentGroupNames      []string          `json:"parentGroupNames,omitempty"`
}

func parseQuery(s string) (*query.Query, error) {
	q, err := query.Parse(s)
	if err != nil {
		return nil, &Error{Code: "InvalidQueryException", Message: err.Error(), Err: err}
	}
	return q, nil
}

const (
	searchPage  = 100             // results of a page, by default
	searchTime  = 2 * time.Second // after it a page ends, with what was found
	maxFlatKeys = 2000            // fields of one thing
)

// A token of a search is the registry's token of the page it stood in, and the
// last name it looked at.
func searchToken(list, page, last string) string {
	return token(list, base64.RawURLEncoding.EncodeToString([]byte(page))+" "+last)
}

func readSearchToken(list, tok string) (page, last string, err error) {
	text, err := readToken(list, tok)
	if err != nil || text == "" {
		return "", "", err
	}
	p, last, ok := strings.Cut(text, " ")
	b, err := base64.RawURLEncoding.DecodeString(p)
	if !ok || err != nil {
		return "", "", invalid("nextToken is not one of this search")
	}
	return string(b), last, nil
}

func (a *API) searchIndex(ctx context.Context, q *searchIndexRequest) (*searchIndexResponse, error) {
	name, err := a.index(q.IndexName)
	if err != nil {
		return nil, err
	}
	asked, err := parseQuery(q.QueryString)
	if err != nil {
		return nil, err
	}
	list := "SearchIndex " + name + " " + q.QueryString
	page, last, err := readSearchToken(list, q.NextToken)
	if err != nil {
		return nil, err
	}
	most := searchPage
	if q.MaxResults != nil {
		most = int(*q.MaxResults)
	}
	out := &searchIndexResponse{}
	if name == groupIndex {
		err = a.eachGroup(ctx, page, last, func(at, name string, doc *groupDocument, d query.Document) bool {
			if asked.Match(d) {
				out.ThingGroups = append(out.ThingGroups, doc)
			}
			if len(out.ThingGroups) == most {
				out.NextToken = searchToken(list, at, name)
			}
			return out.NextToken == ""
		})
		return out, err
	}
	end := time.Now().Add(searchTime)
	err = a.eachThing(ctx, page, last, func(at, name string, doc *thingDocument, d query.Document) bool {
		if asked.Match(d) {
			out.Things = append(out.Things, doc)
		}
		if len(out.Things) == most || time.Now().After(end) {
			out.NextToken = searchToken(list, at, name)
		}
		return out.NextToken == ""
	})
	return out, err
}

// eachThing calls f for the things behind last, in the order of their names, with
// the token of the page they are on, until f says no.
func (a *API) eachThing(ctx context.Context, page, last string, f func(page, name string, doc *thingDocument, d query.Document) bool) error {
	i := a.o.Registry.Indexing()
	for {
		list, next, err := a.o.Registry.Things(registry.ThingFilter{}, registry.Page{Max: 250, Token: page})
		if err != nil {
			return err
		}
		for _, t := range list {
			if t.Name <= last {
				continue
			}
			doc, d, err := a.thingDocument(ctx, &i, t)
			if err != nil {
				return err
			}
			if !f(page, t.Name, doc, d) {
				return nil
			}
		}
		if next == "" {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return errs.E("awsapi.Search", errs.Timeout, err)
		}
		page = next
	}
}

// thingDocument returns what the index has of a thing: as an answer shows it, and
// as queries ask for it.
func (a *API) thingDocument(ctx context.Context, i *registry.Indexing, t *registry.Thing) (*thingDocument, query.Document, error) {
	doc := &thingDocument{ThingName: t.Name, ThingID: t.ID, ThingTypeName: t.Type, Attributes: t.Attributes}
	d := query.Document{}
	add := func(name, value string) {
		if value != "" {
			d.Add(name, query.Text(value))
		}
	}
	add("thingName", t.Name)
	add("thingId", t.ID)
	add("thingTypeName", t.Type)
	add("registry.thingTypeName", t.Type)
	d.Add("registry.version", query.Text(strconv.FormatInt(t.Version, 10)))
	for k, v := range t.Attributes {
		add("attributes."+k, v)
	}
	groups, _, err := a.o.Registry.GroupsOfThing(t.Name, registry.Page{Max: 250})
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, nil, err
	}
	doc.ThingGroupNames = groups
	for _, g := range groups {
		add("thingGroupNames", g)
		add("registry.thingGroupNames", g)
	}
	if orOff(i.Connectivity) != "OFF" {
		c, err := a.o.Connections.GetConnection(ctx, t.Name)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return nil, nil, err
		}
		doc.Connectivity = &connectivity{}
		if err == nil {
			doc.Connectivity = &connectivity{c.Connected, 0, c.Reason}
			if !c.Since.IsZero() {
				doc.Connectivity.Timestamp = c.Since.UnixMilli()
				d.Add("connectivity.timestamp", query.Text(strconv.FormatInt(doc.Connectivity.Timestamp, 10)))
			}
			add("connectivity.disconnectReason", c.Reason)
		}
		add("connectivity.connected", strconv.FormatBool(doc.Connectivity.Connected))
	}
	shadow := map[string]json.RawMessage{}
	if i.Things == "REGISTRY_AND_SHADOW" {
		if err := a.addShadow(ctx, t.Name, "", "shadow.", shadow, d); err != nil {
			return nil, nil, err
		}
	}
	if i.NamedShadow == "ON" && len(i.ShadowNames) > 0 {
		named := map[string]json.RawMessage{}
		for _, name := range i.ShadowNames {
			one := map[string]json.RawMessage{}
			if err := a.addShadow(ctx, t.Name, name, "shadow.name."+name+".", one, d); err != nil {
				return nil, nil, err
			}
			if len(one) > 0 {
				named[name], _ = json.Marshal(one) // of JSON only
			}
		}
		if len(named) > 0 {
			shadow["name"], _ = json.Marshal(named)
		}
	}
	if len(shadow) > 0 {
		b, err := json.Marshal(shadow)
		if err != nil {
			return nil, nil, errs.E("awsapi.Search", errs.Internal, err)
		}
		doc.Shadow = string(b)
	}
	return doc, d, nil
}

// addShadow adds a shadow's sections to an answer and to what queries ask for.
func (a *API) addShadow(ctx context.Context, thing, name, prefix string, to map[string]json.RawMessage, d query.Document) error {
	b, err := a.o.Shadows.Get(ctx, thing, name)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var s struct {
		State    map[string]json.RawMessage `json:"state"`
		Metadata json.RawMessage            `json:"metadata"`
		Version  json.Number                `json:"version"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return errs.E("awsapi.Search", errs.Internal, err)
	}
	for section, raw := range s.State {
		to[section] = raw
		flatten(d, prefix+section, raw)
	}
	_, delta := s.State["delta"]
	to["hasDelta"], _ = json.Marshal(delta)
	d.Add(prefix+"hasDelta", query.Text(strconv.FormatBool(delta)))
	if len(s.Metadata) > 0 {
		to["metadata"] = s.Metadata
		flatten(d, prefix+"metadata", s.Metadata)
	}
	if s.Version != "" {
		to["version"] = json.RawMessage(s.Version)
		d.Add(prefix+"version", query.Text(s.Version.String()))
	}
	return nil
}

// flatten adds the leaves of a JSON value, each under its path.
func flatten(d query.Document, path string, raw json.RawMessage) {
	v, err := parseJSON(raw)
	if err != nil {
		return // deeper than a shadow may be
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		if len(d) > maxFlatKeys {
			return
		}
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(path+"."+k, e)
			}
		case []any:
			for _, e := range v {
				walk(path, e)
			}
		case string:
			d.Add(path, query.Text(v))
		case json.Number:
			d.Add(path, query.Text(v.String()))
		case bool:
			d.Add(path, query.Text(strconv.FormatBool(v)))
		}
	}
	walk(path, v)
}

func (a *API) eachGroup(ctx context.Context, page, last string, f func(page, name string, doc *groupDocument, d query.Document) bool) error {
	for {
		list, next, err := a.o.Registry.Groups(registry.GroupFilter{}, registry.Page{Max: 250, Token: page})
		if err != nil {
			return err
		}
		for _, g := range list {
			if g.Name <= last {
				continue
			}
			above, err := a.o.Registry.Ancestors(g.Name)
			if errs.Is(err, errs.NotFound) {
				continue // just deleted
			}
			if err != nil {
				return err
			}
			doc := &groupDocument{ThingGroupName: g.Name, ThingGroupID: g.ID, ThingGroupDescription: g.Description, Attributes: g.Attributes}
			d := query.Document{}
			d.Add("thingGroupName", query.Text(g.Name))
			d.Add("thingGroupId", query.Text(g.ID))
			if g.Description != "" {
				d.Add("thingGroupDescription", query.Text(g.Description))
			}
			for k, v := range g.Attributes {
				d.Add("attributes."+k, query.Text(v))
			}
			for _, p := range above {
				doc.ParentGroupNames = append(doc.ParentGroupNames, p.Name)
				d.Add("parentGroupNames", query.Text(p.Name))
			}
			if !f(page, g.Name, doc, d) {
				return nil
			}
		}
		if next == "" {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return errs.E("awsapi.Search", errs.Timeout, err)
		}
		page = next
	}
}

// aggregate calls f with the values of a field of each thing the query finds,
// and with the field's type. The field must be a managed one or one of the
// configuration's.
func (a *API) aggregate(ctx context.Context, indexName, queryString, name string, f func(values []query.Value)) (typ string, err error) {
	index, err := a.index(indexName)
	if err != nil {
		return "", err
	}
	if index != thingIndex {
		return "", invalid("things alone can be aggregated")
	}
	asked, err := parseQuery(queryString)
	if err != nil {
		return "", err
	}
	i := a.o.Registry.Indexing()
	for _, known := range append(fieldsOf(i.ThingFields), managedFields...) {
		if known.Name == name {
			typ = known.Type
		}
	}
	if typ == "" {
		return "", &Error{Code: "InvalidAggregationException", Message: "aggregationField: " + clip(name) + " is neither a managed nor a custom field of the indexing configuration"}
	}
	return typ, a.eachThing(ctx, "", "", func(_, _ string, _ *thingDocument, d query.Document) bool {
		if asked.Match(d) && len(d[name]) > 0 {
			f(d[name])
		}
		return ctx.Err() == nil
	})
}

type aggregateRequest struct {
	IndexName        string `json:"indexName" is:"1..128 ~name" default:"AWS_Things"`
	QueryString      string `json:"queryString" is:"required 1..1000"`
	AggregationField string `json:"aggregationField" is:"1..1024"`
	QueryVersion     string `json:"queryVersion" is:"=2017-09-30"`
}

type statistics struct {
	Count        int64    `json:"count"`
	Average      *float64 `json:"average,omitempty"`
	Sum          *float64 `json:"sum,omitempty"`
	Minimum      *float64 `json:"minimum,omitempty"`
	Maximum      *float64 `json:"maximum,omitempty"`
	SumOfSquares *float64 `json:"sumOfSquares,omitempty"`
	Variance     *float64 `json:"variance,omitempty"`
	StdDeviation *float64 `json:"stdDeviation,omitempty"`
}

type statisticsResponse struct {
	Statistics statistics `json:"statistics"`
}

// numbers returns the values that count for a field of typ.
func numbers(typ string, values []query.Value) []float64 {
	var out []float64
	for _, v := range values {
		switch {
		case typ == "Number" && v.IsNumber:
			out = append(out, v.Number)
		case typ == "Boolean" && v.Text == "true":
			out = append(out, 1)
		case typ == "Boolean" && v.Text == "false":
			out = append(out, 0)
		}
	}
	return out
}

func (a *API) getStatistics(ctx context.Context, q *aggregateRequest) (*statisticsResponse, error) {
	name := q.AggregationField
	if name == "" {
		name = "registry.version"
	}
	var texts int64
	var all [][]query.Value
	typ, err := a.aggregate(ctx, q.IndexName, q.QueryString, name, func(values []query.Value) {
		texts++
		all = append(all, values)
	})
	if err != nil {
		return nil, err
	}
	if typ == "String" {
		return &statisticsResponse{statistics{Count: texts}}, nil
	}
	var n int64
	var sum, squares, least, most float64
	for _, values := range all {
		for _, v := range numbers(typ, values) {
			if n == 0 || v < least {
				least = v
			}
			if n == 0 || v > most {
				most = v
			}
			n++
			sum += v
			squares += v * v
		}
	}
	out := &statisticsResponse{statistics{Count: n}}
	if n == 0 || math.IsInf(squares, 0) {
		return out, nil
	}
	average := sum / float64(n)
	variance := math.Max(0, squares/float64(n)-average*average)
	deviation := math.Sqrt(variance)
	s := &out.Statistics
	s.Average, s.Sum, s.Minimum, s.Maximum, s.SumOfSquares, s.Variance, s.StdDeviation = &average, &sum, &least, &most, &squares, &variance, &deviation
	return out, nil
}

type cardinalityResponse struct {
	Cardinality int `json:"cardinality"`
}

func (a *API) getCardinality(ctx context.Context, q *aggregateRequest) (*cardinalityResponse, error) {
	counts, err := a.counts(ctx, q)
	if err != nil {
		return nil, err
	}
	return &cardinalityResponse{len(counts)}, nil
}

// counts returns how many things have each value of a field.
func (a *API) counts(ctx context.Context, q *aggregateRequest) (map[string]int64, error) {
	if q.AggregationField == "" {
		return nil, invalid("aggregationField is missing")
	}
	out := map[string]int64{}
	_, err := a.aggregate(ctx, q.IndexName, q.QueryString, q.AggregationField, func(values []query.Value) {
		for i, v := range values {
			if !slices.Contains(values[:i], v) {
				out[v.Text]++
			}
		}
	})
	return out, err
}

type percentilesRequest struct {
	IndexName        string    `json:"indexName" is:"1..128 ~name" default:"AWS_Things"`
	QueryString      string    `json:"queryString" is:"required 1..1000"`
	AggregationField string    `json:"aggregationField" is:"required 1..1024"`
	QueryVersion     string    `json:"queryVersion" is:"=2017-09-30"`
	Percents         []float64 `json:"percents" is:"..100"`
}

type percentilesResponse struct {
	Percentiles []percentile `json:"percentiles"`
}

type percentile struct {
	Percent float64 `json:"percent"`
	Value   float64 `json:"value"`
}

func (a *API) getPercentiles(ctx context.Context, q *percentilesRequest) (*percentilesResponse, error) {
	percents := q.Percents
	if len(percents) == 0 {
		percents = []float64{1, 5, 25, 50, 75, 95, 99}
	}
	var texts [][]query.Value
	typ, err := a.aggregate(ctx, q.IndexName, q.QueryString, q.AggregationField, func(v []query.Value) { texts = append(texts, v) })
	if err != nil {
		return nil, err
	}
	if typ == "String" {
		return nil, &Error{Code: "InvalidAggregationException", Message: "percentiles are of numbers and booleans"}
	}
	var all []float64
	for _, v := range texts {
		all = append(all, numbers(typ, v)...)
	}
	slices.Sort(all)
	out := &percentilesResponse{Percentiles: []percentile{}}
	for _, p := range percents {
		if !(p >= 0 && p <= 100) {
			return nil, invalid("percents: expected numbers from 0 to 100")
		}
		if len(all) == 0 {
			continue
		}
		place := p / 100 * float64(len(all)-1)
		lo := int(place)
		v := all[lo]
		if lo+1 < len(all) {
			v += (place - float64(lo)) * (all[lo+1] - v)
		}
		out.Percentiles = append(out.Percentiles, percentile{p, v})
	}
	return out, nil
}

type bucketsRequest struct {
	IndexName              string       `json:"indexName" is:"1..128 ~name" default:"AWS_Things"`
	QueryString            string       `json:"queryString" is:"required 1..1000"`
	AggregationField       string       `json:"aggregationField" is:"required 1..1024"`
	QueryVersion           string       `json:"queryVersion" is:"=2017-09-30"`
	BucketsAggregationType *bucketsType `json:"bucketsAggregationType" is:"required"`
}

type bucketsType struct {
	TermsAggregation *termsAggregation `json:"termsAggregation"`
}

type termsAggregation struct {
	MaxBuckets *int64 `json:"maxBuckets" is:"1..10000"`
}

type bucketsResponse struct {
	TotalCount int64    `json:"totalCount"`
	Buckets    []bucket `json:"buckets"`
}

type bucket struct {
	KeyValue string `json:"keyValue"`
	Count    int64  `json:"count"`
}

func (a *API) getBuckets(ctx context.Context, q *bucketsRequest) (*bucketsResponse, error) {
	terms := q.BucketsAggregationType.TermsAggregation
	if terms == nil {
		return nil, invalid("bucketsAggregationType.termsAggregation is missing")
	}
	counts, err := a.counts(ctx, &aggregateRequest{IndexName: q.IndexName, QueryString: q.QueryString, AggregationField: q.AggregationField})
	if err != nil {
		return nil, err
	}
	most := 10
	if terms.MaxBuckets != nil {
		most = int(*terms.MaxBuckets)
	}
	out := &bucketsResponse{Buckets: []bucket{}}
	for value, n := range counts {
		out.TotalCount += n
		out.Buckets = append(out.Buckets, bucket{value, n})
	}
	slices.SortFunc(out.Buckets, func(a, b bucket) int {
		if a.Count != b.Count {
			return int(b.Count - a.Count)
		}
		return strings.Compare(a.KeyValue, b.KeyValue)
	})
	out.Buckets = out.Buckets[:min(most, len(out.Buckets))]
	return out, nil
}
