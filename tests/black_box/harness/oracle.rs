//! What has to hold after every attack and every fault, whatever it was.

use super::{Gateway, Origin, eventually, until};

impl Gateway {
    /// Asserts that nothing is left of what was done to the gateway: a new connection is served, an upstream connection
    /// that is used again carries the right answer, no connection or request is still held, nothing panicked, and
    /// nothing was logged that an operator would have to look at.
    ///
    /// `target` is one that needs no key and is [echoed](super::echo) by `origin`. The test's own connections have to
    /// be closed.
    #[track_caller]
    pub fn assert_unharmed(&self, origin: &Origin, target: &str) {
        self.assert_recovered(origin, target);
        let log = self.log();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }

    /// The same, for a fault that an operator has to be told about.
    #[track_caller]
    pub fn assert_recovered(&self, origin: &Origin, target: &str) {
        let mut connection = self.raw();
        let mut asked = 0;
        eventually("an upstream connection is used again", || {
            let known = origin.connections();
            asked += 1;
            let target = format!("{target}?asked={asked}");
            let echo = self.client().get(&target).send_on(&mut connection).expect(200).echo();
            assert_eq!(echo.target, target, "the answer to another request");
            (echo.connection < known).then_some(())
        });
        drop(connection);
        until("no connection is left", || {
            self.metric("tollgate_connections{state=\"open\"}") == 0.0
                && self.metric("tollgate_requests_in_flight") == 0.0
        });
        assert_eq!(self.metric("tollgate_panics_total"), 0.0, "a request panicked");
    }
}
