//! Who is connected: the bound on connections, in all and per client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

/// Counts connections. Seats are taken once per connection, so a short lock is cheap enough.
pub struct Census {
    connections_max: usize,
    per_address_max: usize,
    /// Load balancers: they speak for many clients, and the bound per address is not for them.
    trusted: Vec<IpNet>,
    seated: Mutex<Seated>,
    open: prometheus::IntGauge,
}

#[derive(Default)]
struct Seated {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place for one connection; given back when dropped.
pub struct Seat {
    census: Arc<Census>,
    address: Option<IpAddr>,
}

/// There is no room.
#[derive(Debug, PartialEq, Eq)]
pub struct Unseated;

impl Census {
    /// Room for so many connections in all and from one address.
    #[must_use]
    pub fn new(
        connections_max: usize,
        per_address_max: usize,
        trusted: Vec<IpNet>,
        open: prometheus::IntGauge,
    ) -> Self {
        Self {
            connections_max,
            per_address_max,
            trusted,
            seated: Mutex::default(),
            open,
        }
    }

    /// A seat for a connection from this address.
    ///
    /// # Errors
    /// When one of the bounds is reached.
    pub fn seat(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Seat, Unseated> {
        let counted = address.filter(|address| !self.trusted.iter().any(|net| net.contains(address)));
        let mut seated = self.seated.lock().unwrap_or_else(PoisonError::into_inner);
        if seated.total >= self.connections_max {
            return Err(Unseated);
        }
        if let Some(address) = counted {
            let here = seated.by_address.entry(address).or_default();
            if *here >= self.per_address_max {
                return Err(Unseated);
            }
            *here += 1;
        }
        seated.total += 1;
        drop(seated);
        self.open.inc();
        Ok(Seat {
            census: Arc::clone(self),
            address: counted,
        })
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.seated.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seated = self.census.seated.lock().unwrap_or_else(PoisonError::into_inner);
        seated.total = seated.total.saturating_sub(1);
        if let Some(address) = self.address
            && let Some(here) = seated.by_address.get_mut(&address)
        {
            *here -= 1;
            if *here == 0 {
                seated.by_address.remove(&address);
            }
        }
        drop(seated);
        self.census.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(total: usize, per_address: usize) -> Arc<Census> {
        let open = prometheus::IntGauge::new("open", "open").unwrap();
        Arc::new(Census::new(
            total,
            per_address,
            vec!["10.0.0.0/8".parse().unwrap()],
            open,
        ))
    }

    #[test]
    fn one_address_can_not_take_every_seat_and_seats_come_back() {
        let census = census(3, 2);
        let client: Option<IpAddr> = Some([192, 0, 2, 1].into());
        let other: Option<IpAddr> = Some([192, 0, 2, 2].into());
        let first = census.seat(client).unwrap();
        let _second = census.seat(client).unwrap();
        assert_eq!(census.seat(client).err(), Some(Unseated));
        let _third = census.seat(other).unwrap();
        assert_eq!(census.seat(other).err(), Some(Unseated), "all seats are taken");
        drop(first);
        assert!(census.seat(client).is_ok());
        assert_eq!(census.seated.lock().unwrap().by_address.len(), 2);
    }

    #[test]
    fn a_trusted_load_balancer_is_bound_by_the_total_only() {
        let census = census(3, 1);
        let balancer: Option<IpAddr> = Some([10, 0, 0, 1].into());
        let seats: Vec<_> = (0..3).map(|_| census.seat(balancer).unwrap()).collect();
        assert!(census.seat(balancer).is_err());
        drop(seats);
        assert_eq!(census.open(), 0);
    }
}
