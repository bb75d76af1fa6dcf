package timefmt

import (
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // zones by name, also where the machine has none
)

var zones sync.Map // name → *time.Location; only names of the time zone database get in, so it is bounded

// Zone returns a time zone by its name in the tz database, or by offset: +05:30,
// UTC+2, GMT-04:30, Z.
func Zone(name string) (*time.Location, bool) {
	if l, ok := zones.Load(name); ok {
		return l.(*time.Location), true
	}
	if l, ok := namedZone(name); ok {
		zones.Store(name, l)
		return l, true
	}
	return offsetZone(name)
}

func namedZone(name string) (*time.Location, bool) {
	switch name {
	case "UTC", "Z", "UT", "GMT", "GMT0":
		return time.FixedZone(name, 0), true
	}
	if len(name) < 2 || len(name) > 40 || name[0] < 'A' || name[0] > 'Z' || name == "Local" {
		return nil, false
	}
	for i := range len(name) {
		if !zoneChar(name[i]) {
			return nil, false
		}
	}
	l, err := time.LoadLocation(name)
	return l, err == nil
}

func zoneChar(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '/' || c == '_' || c == '+' || c == '-'
}

func offsetZone(name string) (*time.Location, bool) {
	text := name
	for _, prefix := range []string{"UTC", "GMT", "UT"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			text = rest
			break
		}
	}
	seconds, n, ok := parseOffset(text)
	if !ok || n != len(text) {
		return nil, false
	}
	return fixed(seconds), true
}

func fixed(seconds int) *time.Location {
	if seconds == 0 {
		return time.UTC
	}
	return time.FixedZone(string(appendOffset(nil, seconds, true)), seconds)
}

// parseOffset reads +H, +HH, +HHMM, +HH:MM, +HHMMSS or +HH:MM:SS at the
// beginning of text: at most 18 hours, as java.time has it.
func parseOffset(text string) (seconds, n int, ok bool) {
	if text == "" || text[0] != '+' && text[0] != '-' {
		return 0, 0, false
	}
	two := func(at int) (int, bool) {
		if at+2 > len(text) || !isDigit(text[at]) || !isDigit(text[at+1]) {
			return 0, false
		}
		return int(text[at]-'0')*10 + int(text[at+1]-'0'), true
	}
	h, ok := two(1)
	n = 3
	if !ok {
		if len(text) < 2 || !isDigit(text[1]) {
			return 0, 0, false
		}
		h, n = int(text[1]-'0'), 2
	}
	var m, s int
	if n < len(text) && text[n] == ':' {
		if v, ok := two(n + 1); ok {
			m, n = v, n+3
			if n < len(text) && text[n] == ':' {
				if v, ok := two(n + 1); ok {
					s, n = v, n+3
				}
			}
		}
	} else if v, ok := two(n); ok && n == 3 {
		m, n = v, n+2
		if v, ok := two(n); ok {
			s, n = v, n+2
		}
	}
	seconds = h*3600 + m*60 + s
	if m > 59 || s > 59 || seconds > 18*3600 {
		return 0, 0, false
	}
	if text[0] == '-' {
		seconds = -seconds
	}
	return seconds, n, true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// appendOffset writes an offset as +HHMM or +HH:MM, with seconds where it has
// any.
func appendOffset(b []byte, seconds int, colon bool) []byte {
	sign := byte('+')
	if seconds < 0 {
		sign, seconds = '-', -seconds
	}
	b = appendPadded(append(b, sign), seconds/3600, 2)
	if colon {
		b = append(b, ':')
	}
	b = appendPadded(b, seconds/60%60, 2)
	if seconds%60 != 0 {
		if colon {
			b = append(b, ':')
		}
		b = appendPadded(b, seconds%60, 2)
	}
	return b
}

// zoneName holds the English names of a zone and where it is kept.
type zoneName struct {
	standard, daylight           string // long
	standardShort, daylightShort string
	zones                        []string // the first is what a short name means
}

var zoneNames = []zoneName{
	{"Coordinated Universal Time", "", "UTC", "", []string{"UTC", "Etc/UTC", "Z", "UT", "Etc/UCT", "UCT", "Zulu", "Universal", "Etc/Zulu"}},
	{"Greenwich Mean Time", "", "GMT", "", []string{"GMT", "Etc/GMT", "GMT0", "Africa/Abidjan", "Africa/Accra", "Africa/Dakar", "Atlantic/Reykjavik", "Iceland"}},
	{"Eastern Standard Time", "Eastern Daylight Time", "EST", "EDT", []string{"America/New_York", "America/Detroit", "America/Toronto", "America/Montreal", "America/Indiana/Indianapolis", "America/Kentucky/Louisville", "America/Nassau", "America/Panama", "America/Jamaica", "America/Port-au-Prince", "America/Cancun", "US/Eastern", "Canada/Eastern", "EST5EDT", "EST"}},
	{"Central Standard Time", "Central Daylight Time", "CST", "CDT", []string{"America/Chicago", "America/Winnipeg", "America/Mexico_City", "America/Monterrey", "America/Belize", "America/Costa_Rica", "America/Guatemala", "America/El_Salvador", "America/Tegucigalpa", "America/Managua", "America/Regina", "America/Menominee", "US/Central", "Canada/Central", "CST6CDT"}},
	{"Mountain Standard Time", "Mountain Daylight Time", "MST", "MDT", []string{"America/Denver", "America/Phoenix", "America/Boise", "America/Edmonton", "US/Mountain", "US/Arizona", "Canada/Mountain", "MST7MDT", "MST"}},
	{"Pacific Standard Time", "Pacific Daylight Time", "PST", "PDT", []string{"America/Los_Angeles", "America/Vancouver", "America/Tijuana", "US/Pacific", "Canada/Pacific", "PST8PDT"}},
	{"Alaska Standard Time", "Alaska Daylight Time", "AKST", "AKDT", []string{"America/Anchorage", "America/Juneau", "America/Nome", "US/Alaska"}},
	{"Hawaii Standard Time", "Hawaii Daylight Time", "HST", "HDT", []string{"Pacific/Honolulu", "US/Hawaii", "HST"}},
	{"Atlantic Standard Time", "Atlantic Daylight Time", "AST", "ADT", []string{"America/Halifax", "America/Puerto_Rico", "America/Barbados", "Atlantic/Bermuda", "Canada/Atlantic"}},
	{"Newfoundland Standard Time", "Newfoundland Daylight Time", "NST", "NDT", []string{"America/St_Johns", "Canada/Newfoundland"}},
	{"Brasilia Time", "Brasilia Summer Time", "BRT", "BRST", []string{"America/Sao_Paulo", "America/Bahia", "America/Fortaleza", "America/Recife", "Brazil/East"}},
	{"Argentina Time", "Argentina Summer Time", "ART", "ARST", []string{"America/Argentina/Buenos_Aires", "America/Buenos_Aires", "America/Argentina/Cordoba"}},
	{"Chile Time", "Chile Summer Time", "CLT", "CLST", []string{"America/Santiago", "Chile/Continental"}},
	{"Colombia Time", "Colombia Summer Time", "COT", "COST", []string{"America/Bogota"}},
	{"Peru Time", "Peru Summer Time", "PET", "PEST", []string{"America/Lima"}},
	{"Greenwich Mean Time", "British Summer Time", "GMT", "BST", []string{"Europe/London", "Europe/Belfast", "Europe/Jersey", "Europe/Guernsey", "Europe/Isle_of_Man", "GB"}},
	{"Greenwich Mean Time", "Irish Standard Time", "GMT", "IST", []string{"Europe/Dublin", "Eire"}},
	{"Western European Time", "Western European Summer Time", "WET", "WEST", []string{"WET", "Europe/Lisbon", "Atlantic/Canary", "Atlantic/Madeira", "Atlantic/Faroe", "Portugal"}},
	{"Central European Time", "Central European Summer Time", "CET", "CEST", []string{"Europe/Paris", "Europe/Berlin", "Europe/Madrid", "Europe/Rome", "Europe/Vienna", "Europe/Zurich", "Europe/Amsterdam", "Europe/Brussels", "Europe/Luxembourg", "Europe/Copenhagen", "Europe/Oslo", "Europe/Stockholm", "Europe/Prague", "Europe/Bratislava", "Europe/Budapest", "Europe/Warsaw", "Europe/Zagreb", "Europe/Ljubljana", "Europe/Belgrade", "Europe/Sarajevo", "Europe/Skopje", "Europe/Tirane", "Europe/Malta", "Europe/Monaco", "Europe/Vaduz", "Europe/Andorra", "Europe/San_Marino", "Europe/Vatican", "Europe/Podgorica", "Europe/Gibraltar", "Africa/Tunis", "Africa/Algiers", "Arctic/Longyearbyen", "CET", "Poland"}},
	{"Eastern European Time", "Eastern European Summer Time", "EET", "EEST", []string{"EET", "Europe/Athens", "Europe/Helsinki", "Europe/Sofia", "Europe/Bucharest", "Europe/Kiev", "Europe/Kyiv", "Europe/Riga", "Europe/Tallinn", "Europe/Vilnius", "Europe/Chisinau", "Europe/Mariehamn", "Europe/Kaliningrad", "Asia/Nicosia", "Asia/Beirut", "Africa/Cairo", "Africa/Tripoli", "Egypt"}},
	{"Moscow Standard Time", "Moscow Daylight Time", "MSK", "MSD", []string{"Europe/Moscow", "Europe/Simferopol", "W-SU"}},
	{"Israel Standard Time", "Israel Daylight Time", "IST", "IDT", []string{"Asia/Jerusalem", "Asia/Tel_Aviv", "Israel"}},
	{"Central African Time", "", "CAT", "", []string{"Africa/Maputo", "Africa/Harare", "Africa/Lusaka", "Africa/Khartoum", "Africa/Windhoek", "Africa/Kigali"}},
	{"Eastern African Time", "", "EAT", "", []string{"Africa/Nairobi", "Africa/Addis_Ababa", "Africa/Dar_es_Salaam", "Africa/Kampala", "Africa/Mogadishu"}},
	{"Western African Time", "", "WAT", "", []string{"Africa/Lagos", "Africa/Kinshasa", "Africa/Luanda", "Africa/Douala"}},
	{"South Africa Standard Time", "", "SAST", "", []string{"Africa/Johannesburg", "Africa/Maseru"}},
	{"Arabia Standard Time", "", "AST", "", []string{"Asia/Riyadh", "Asia/Kuwait", "Asia/Qatar", "Asia/Baghdad", "Asia/Aden"}},
	{"Gulf Standard Time", "", "GST", "", []string{"Asia/Dubai", "Asia/Muscat"}},
	{"Iran Standard Time", "Iran Daylight Time", "IRST", "IRDT", []string{"Asia/Tehran", "Iran"}},
	{"Pakistan Time", "", "PKT", "", []string{"Asia/Karachi"}},
	{"India Standard Time", "", "IST", "", []string{"Asia/Kolkata", "Asia/Calcutta", "Asia/Colombo"}},
	{"Nepal Time", "", "NPT", "", []string{"Asia/Kathmandu", "Asia/Katmandu"}},
	{"Bangladesh Time", "", "BDT", "", []string{"Asia/Dhaka", "Asia/Dacca"}},
	{"Indochina Time", "", "ICT", "", []string{"Asia/Bangkok", "Asia/Ho_Chi_Minh", "Asia/Saigon", "Asia/Phnom_Penh", "Asia/Vientiane"}},
	{"West Indonesia Time", "", "WIB", "", []string{"Asia/Jakarta"}},
	{"Singapore Time", "", "SGT", "", []string{"Asia/Singapore", "Singapore"}},
	{"Malaysia Time", "", "MYT", "", []string{"Asia/Kuala_Lumpur"}},
	{"Hong Kong Time", "", "HKT", "", []string{"Asia/Hong_Kong", "Hongkong"}},
	{"China Standard Time", "", "CST", "", []string{"Asia/Shanghai", "Asia/Chongqing", "Asia/Harbin", "Asia/Taipei", "Asia/Macau", "PRC"}},
	{"Philippines Standard Time", "", "PST", "", []string{"Asia/Manila"}},
	{"Japan Standard Time", "", "JST", "", []string{"Asia/Tokyo", "Japan"}},
	{"Korea Standard Time", "", "KST", "", []string{"Asia/Seoul", "ROK"}},
	{"Australian Western Standard Time", "", "AWST", "", []string{"Australia/Perth", "Australia/West"}},
	{"Australian Central Standard Time", "Australian Central Daylight Time", "ACST", "ACDT", []string{"Australia/Adelaide", "Australia/Darwin", "Australia/Broken_Hill", "Australia/South", "Australia/North"}},
	{"Australian Eastern Standard Time", "Australian Eastern Daylight Time", "AEST", "AEDT", []string{"Australia/Sydney", "Australia/Melbourne", "Australia/Brisbane", "Australia/Hobart", "Australia/Canberra", "Australia/Lindeman", "Australia/ACT", "Australia/NSW", "Australia/Victoria", "Australia/Queensland", "Australia/Tasmania"}},
	{"New Zealand Standard Time", "New Zealand Daylight Time", "NZST", "NZDT", []string{"Pacific/Auckland", "Antarctica/McMurdo", "NZ"}},
}

// names returns the English names of the zone, nil where they are not known.
var names = sync.OnceValue(func() map[string]*zoneName {
	m := map[string]*zoneName{}
	for i := range zoneNames {
		for _, z := range zoneNames[i].zones {
			m[z] = &zoneNames[i]
		}
	}
	return m
})

// zoneOf maps the names people write in texts to zones; where several zones
// share a short name the one listed first has it.
var zoneOf = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	for _, n := range zoneNames {
		for _, name := range []string{n.standard, n.daylight, n.standardShort, n.daylightShort} {
			if _, ok := m[name]; !ok && name != "" {
				m[name] = n.zones[0]
			}
		}
	}
	m["IST"] = "Asia/Kolkata"
	m["Western European Standard Time"] = "WET"
	m["Central European Standard Time"] = "Europe/Paris"
	m["Eastern European Standard Time"] = "EET"
	m["Hawaii-Aleutian Standard Time"] = "Pacific/Honolulu"
	return m
})

// appendZoneName writes the short or long English name of the zone at t; an
// offset where it has no name.
func appendZoneName(b []byte, t time.Time, long bool) []byte {
	short, offset := t.Zone()
	n := names()[t.Location().String()]
	switch {
	case n != nil && long && t.IsDST() && n.daylight != "":
		return append(b, n.daylight...)
	case n != nil && long && !t.IsDST():
		return append(b, n.standard...)
	case n != nil && !long && (short == "" || short[0] == '+' || short[0] == '-'):
		if t.IsDST() && n.daylightShort != "" {
			return append(b, n.daylightShort...)
		}
		return append(b, n.standardShort...)
	case long || short == "" || short[0] == '+' || short[0] == '-':
		return appendOffset(b, offset, true)
	}
	return append(b, short...)
}
