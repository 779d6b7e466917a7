//! A scrape as Prometheus reads it: the list of metrics rendered by the `prometheus` crate.

use prometheus::TextEncoder;
use prometheus::proto;

use super::{HistogramTotals, METRICS, Metric, MetricSample, MetricScrape, MetricSource};

/// Names the content type of [`render_metrics`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders every metric of [`METRICS`] in Prometheus' text format 0.0.4. Metrics without a sample are left out, as the
/// format asks.
pub fn render_metrics(scrape: &MetricScrape) -> String {
    let families: Vec<_> = METRICS
        .iter()
        .filter_map(|metric| family(metric, scrape))
        .collect();
    let mut text = String::with_capacity(16 * 1024);
    TextEncoder::new()
        .encode_utf8(&families, &mut text)
        .expect("writing to a string fails only for a family without a name or a sample, and these have both");
    text
}

fn family(metric: &Metric, scrape: &MetricScrape) -> Option<proto::MetricFamily> {
    let (kind, metrics) = match metric.source {
        MetricSource::Counter(samples) => (
            proto::MetricType::COUNTER,
            rendered(metric, samples(scrape), counter),
        ),
        MetricSource::Gauge(samples) => (
            proto::MetricType::GAUGE,
            rendered(metric, samples(scrape), gauge),
        ),
        MetricSource::Histogram(totals) => (
            proto::MetricType::HISTOGRAM,
            vec![histogram(totals(scrape))],
        ),
    };
    if metrics.is_empty() {
        return None;
    }
    let mut family = proto::MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    Some(family)
}

fn rendered(
    metric: &Metric,
    samples: Vec<MetricSample>,
    set: fn(&mut proto::Metric, f64),
) -> Vec<proto::Metric> {
    let render = |sample: MetricSample| {
        let label = |(name, value): (&&str, String)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value);
            pair
        };
        let mut rendered =
            proto::Metric::from_label(metric.labels.iter().zip(sample.labels).map(label).collect());
        set(&mut rendered, sample.value);
        rendered
    };
    samples.into_iter().map(render).collect()
}

fn counter(metric: &mut proto::Metric, value: f64) {
    let mut counter = proto::Counter::default();
    counter.set_value(value);
    metric.set_counter(counter);
}

fn gauge(metric: &mut proto::Metric, value: f64) {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
}

fn histogram(totals: &HistogramTotals) -> proto::Metric {
    let bucket = |(bound, count)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(totals.cumulative().map(bucket).collect());
    histogram.set_sample_count(totals.count());
    histogram.set_sample_sum(totals.sum_seconds());
    let mut metric = proto::Metric::default();
    metric.set_histogram(histogram);
    metric
}
