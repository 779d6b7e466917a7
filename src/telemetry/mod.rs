//! What respool tells about itself: counters, histograms and their exposition; no sockets.
//!
//! Every counter has one writer. A worker counts into its own [`WorkerCounters`]; the admin thread reads them all and
//! adds them up when somebody asks ([`MetricScrape::gather`]), so that counting costs the data path no shared cache line.
//! [`METRICS`] is the one list of metric names. Invariant: label values come from the configuration or from the
//! constant lists in `labels`, never from what a client sent.

mod concern;
mod counter;
mod exposition;
mod faults;
mod histogram;
mod labels;
pub mod log;
mod log_queue;
mod metrics;
mod parts;
mod process;
mod scrape;
mod server;
mod status;
mod throttle;
mod worker;

pub use concern::OperatorConcern;
use counter::{Counter, Gauge};
pub use exposition::{CONTENT_TYPE, render_metrics};
pub use faults::faults;
use histogram::{Histogram, HistogramTotals};
pub use labels::{AdminRefusal, Bound, ConnectResult, Disconnect, LossCause, TlsHandshake};
pub use log_queue::LogQueue;
use metrics::{METRICS, Metric, MetricSample, MetricSource};
use parts::PartRow;
pub use parts::{Heartbeat, ProcessParts};
pub use process::{PROCESS, ProcessRow};
pub use scrape::{
    CertificateRow, ClientRow, FailoverRow, FailoverRows, GroupRow, LastReload, MemoryRow,
    MetricScrape, ProcessStanding, UpstreamCounts,
};
use scrape::{CounterTotals, GroupTotals};
pub use server::ServerHealth;
use server::{LastError, ServerSnapshot};
pub use status::status_json;
pub use throttle::Throttle;
use worker::GroupCounters;
pub use worker::WorkerCounters;

#[cfg(test)]
mod tests;
