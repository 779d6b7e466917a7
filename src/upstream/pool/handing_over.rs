//! An idle connection is handed over to another worker as a parcel, and unpacked there.
//!
//! Invariant: only a connection that owes nothing, is owed nothing and lies between two frames is passed on.

use std::rc::Rc;

use super::Upstream;
use crate::budget::IdleDemand;
use crate::link::Link;

impl Upstream {
    /// Tells whether what is wanted is on its way already.
    pub(super) fn is_on_its_way(&self, wanted: IdleDemand) -> bool {
        let IdleDemand::Connection { worker, waiters } = wanted else {
            return false;
        };
        let under_way = self.thread.process.passing.under_way(worker);
        under_way.is_some_and(|under_way| under_way >= waiters)
    }

    /// Gives an idle connection to the worker where it is wanted. Returns false where it is not, or cannot go.
    pub(super) fn pass_on(&self, link: &Rc<Link>, wanted: IdleDemand) -> bool {
        let IdleDemand::Connection { worker, .. } = wanted else {
            return false;
        };
        let is_taken = self.thread.process.passing.under_way(worker).is_some();
        let goes = is_taken && link.is_between_frames();
        if goes {
            link.pass_to(worker);
        }
        goes
    }

    /// Takes what other workers send until this one ends.
    pub(super) async fn keep_receiving(self: Rc<Self>) {
        let passing = &self.thread.process.passing;
        if !passing.open(self.thread.index) {
            return;
        }
        while let Some(arrived) = passing.arrived(self.thread.index).await {
            for parcel in arrived {
                if let Some(link) = parcel.unpack(&self.thread) {
                    self.keep_driving(&link);
                    self.keep_idle(link);
                }
            }
        }
    }

    /// Takes no more of other workers; what is there is closed.
    pub(super) fn stop_receiving(&self) {
        let left = self.thread.process.passing.close(self.thread.index);
        let links = left
            .into_iter()
            .filter_map(|parcel| parcel.unpack(&self.thread));
        links.for_each(drop);
    }
}
