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
        let counted = self.counted(address);
        let mut seated = self.seated.lock().unwrap_or_else(PoisonError::into_inner);
        if seated.total >= self.connections_max {
            return Err(Unseated);
        }
        seated.arrive(counted, self.per_address_max)?;
        seated.total += 1;
        drop(seated);
        self.open.inc();
        Ok(Seat {
            census: Arc::clone(self),
            address: counted,
        })
    }

    /// The address, if the bound per address is for it.
    fn counted(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        address.filter(|address| !self.trusted.iter().any(|net| net.contains(address)))
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.seated.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Seat {
    /// Counts the connection for this address, which was not known before: a PROXY header has told it.
    ///
    /// # Errors
    /// When there are as many from there as there may be.
    pub fn is_for(&mut self, address: Option<IpAddr>) -> Result<(), Unseated> {
        let counted = self.census.counted(address);
        let mut seated = self.census.seated.lock().unwrap_or_else(PoisonError::into_inner);
        seated.leave(self.address.take());
        seated.arrive(counted, self.census.per_address_max)?;
        self.address = counted;
        Ok(())
    }
}

impl Seated {
    fn arrive(&mut self, address: Option<IpAddr>, most: usize) -> Result<(), Unseated> {
        let Some(address) = address else {
            return Ok(());
        };
        let here = self.by_address.entry(address).or_default();
        if *here >= most {
            return Err(Unseated);
        }
        *here += 1;
        Ok(())
    }

    fn leave(&mut self, address: Option<IpAddr>) {
        if let Some(address) = address
            && let Some(here) = self.by_address.get_mut(&address)
        {
            *here -= 1;
            if *here == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seated = self.census.seated.lock().unwrap_or_else(PoisonError::into_inner);
        seated.total = seated.total.saturating_sub(1);
        seated.leave(self.address);
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

    #[test]
    fn an_address_that_is_known_later_is_counted_later() {
        let census = census(9, 2);
        let client: Option<IpAddr> = Some([192, 0, 2, 1].into());
        let mut seats: Vec<_> = (0..3).map(|_| census.seat(None).unwrap()).collect();
        assert_eq!(seats[0].is_for(client), Ok(()));
        assert_eq!(seats[0].is_for(client), Ok(()), "it is counted once");
        assert_eq!(seats[1].is_for(client), Ok(()));
        assert_eq!(seats[2].is_for(client), Err(Unseated));
        assert_eq!(census.seat(client).err(), Some(Unseated));
        drop(seats);
        assert_eq!(census.open(), 0);
        assert!(census.seated.lock().unwrap().by_address.is_empty());
    }
}
