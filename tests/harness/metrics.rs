//! Metrics, read from the text that `/metrics` answers.

/// Sums all samples of this name that bear at least these labels; `None` when there are none.
pub(crate) fn find_metric(text: &str, wanted: &str) -> Option<f64> {
    let (wanted_name, wanted_labels) = name_and_labels(wanted);
    let samples = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (metric, value) = line.rsplit_once(' ')?;
            let (name, labels) = name_and_labels(metric);
            let matches = name == wanted_name && wanted_labels.iter().all(|l| labels.contains(l));
            matches.then(|| value.parse::<f64>().ok())?
        });
    samples.reduce(|a, b| a + b)
}

/// Divides `a{x="1",y="2"}` into the name and the labels. Label values of respool hold no comma.
fn name_and_labels(metric: &str) -> (&str, Vec<&str>) {
    let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
    (
        name,
        labels
            .trim_end_matches('}')
            .split(',')
            .filter(|l| !l.is_empty())
            .collect(),
    )
}
