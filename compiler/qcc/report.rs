//! Reports as pages: what `qcc compare` and `qcc bench` found, with plots as SVG. A page needs nothing but itself, not even scripts.

mod accuracy;
mod plot;
mod speed;

pub use accuracy::accuracy;
pub use speed::speed;

/// Colours and letters, those of the explorer's page.
const STYLE: &str = include_str!("report/style.css");

/// Text in which no character means anything to a browser.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A page with a title above its parts.
fn page(title: &str, parts: &[String]) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{}\n<footer>qcc {}</footer>\n\
         </body>\n</html>\n",
        parts.join("\n"),
        env!("CARGO_PKG_VERSION")
    )
}

/// A part with a heading, a line that says what is to be seen, and contents.
fn part(heading: &str, about: &str, contents: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n<p>{}</p>\n{contents}\n</section>", escaped(heading), escaped(about))
}

/// A table; `numbers` says which columns have numbers.
fn table(head: &[&str], numbers: &[usize], rows: &[Vec<String>]) -> String {
    let class = |i: usize| if numbers.contains(&i) { " class=\"number\"" } else { "" };
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = String>| -> String {
        cells.enumerate().map(|(i, text)| format!("<{tag}{}>{}</{tag}>", class(i), escaped(&text))).collect()
    };
    let body: String = rows.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", &mut row.iter().cloned()))).collect();
    let head = cells("th", &mut head.iter().map(|h| (*h).to_string()));
    format!("<div class=\"wide\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>")
}

/// Figures by name.
fn figures(rows: &[(String, String)]) -> String {
    let row = |(name, value): &(String, String)| format!("<dt>{}</dt><dd>{}</dd>\n", escaped(name), escaped(value));
    format!("<dl>\n{}</dl>", rows.iter().map(row).collect::<String>())
}
