package mqtt

// clampSessions takes every place of the connected sessions and of the groups in
// partition p back to end: the log has lost what lay behind it, and gives its
// sequences out again. It is called by the partition's router.
func (s *Server) clampSessions(p int, end uint64) {
	s.logger.Error("the log has lost its end; sessions go back to it", "partition", p, "had", s.routed[p].Load(), "has", end)
	s.routed[p].Store(end)
	s.handed[p].Store(end)
	s.replays[p].lose(end)
	s.mu.Lock()
	clients := make([]*client, 0, len(s.clients))
	for _, c := range s.clients {
		clients = append(clients, c)
	}
	s.mu.Unlock()
	for _, c := range clients {
		c.sess.clamp(p, end)
	}
	s.routes.mu.RLock()
	defer s.routes.mu.RUnlock()
	for _, g := range s.routes.shares {
		g.clamp(p, end)
	}
}

func (s *session) clamp(p int, end uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return // its record is clamped when it is read
	}
	s.stall()
	pl := &s.places[p]
	pl.after, pl.seen, pl.dup = min(pl.after, end), min(pl.seen, end), min(pl.dup, end)
	for n := len(pl.again); n > 0 && pl.again[n-1].seq > end; n-- {
		if f := s.flight(pl.again[n-1].counter); f != nil {
			f.done = true // there is nothing to send again
		}
		pl.again = pl.again[:n-1]
	}
	for _, sub := range s.subs {
		sub.start[p] = min(sub.start[p], end)
	}
	for _, sub := range s.replaced {
		sub.until[p] = min(sub.until[p], end)
	}
	// What is under way was not lost to its client, and cannot be sent again. Its
	// sequence means another message from here on, as does that of what waits.
	for i := s.flightHead; i != s.flightTail; i++ {
		if f := &s.flights[i%uint64(len(s.flights))]; int(f.part) == p && f.seq > end && !f.retained && f.share == nil {
			f.seq = 0
		}
	}
	for i := range s.queue {
		if w := &s.queue[i]; int(w.e.Partition) == p && w.e.Seq > end {
			e := *w.e
			e.Seq = 0
			w.e = &e
		}
	}
	s.advance()
	s.changed()
	s.pump()
	s.write()
}

func (g *share) clamp(p int, end uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	pl := &g.places[p]
	pl.after, pl.seen, pl.upto, pl.dup = min(pl.after, end), min(pl.seen, end), min(pl.upto, end), min(pl.dup, end)
	for w := range g.open {
		if int(w.part) == p && w.seq > end {
			delete(g.open, w)
		}
	}
	for w := range g.flights {
		if int(w.part) == p && w.seq > end {
			delete(g.flights, w)
		}
	}
	g.changed()
}
