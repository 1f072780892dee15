//! `podling get`: tables from the server, or whole objects.

use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use hyper::Method;
use serde_json::{Value, json};

use crate::board::Kind;
use crate::server::wire::Table;

use super::args::{GetArgs, Select};
use super::client::{Ask, Client, ClientError, Lines, PathBuilder};
use super::columns::Columns;
use super::jsonpath::JsonPath;
use super::table::TablePrinter;
use super::{Out, complain, kinds, show_error, yaml};

/// What is asked of the server for tables.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

/// How results are printed.
#[derive(Debug)]
enum Format {
    Table { wide: bool },
    Yaml,
    Json,
    Name,
    JsonPath(JsonPath),
}

impl Format {
    fn parse(text: Option<&str>) -> anyhow::Result<Self> {
        Ok(match text {
            None | Some("") => Self::Table { wide: false },
            Some("wide") => Self::Table { wide: true },
            Some("yaml") => Self::Yaml,
            Some("json") => Self::Json,
            Some("name") => Self::Name,
            Some(other) => match other.strip_prefix("jsonpath=") {
                Some(template) => Self::JsonPath(JsonPath::parse(template)?),
                None => bail!(
                    "unable to match a printer suitable for the output format \"{other}\", allowed formats are: \
                     json,jsonpath=TEMPLATE,name,wide,yaml"
                ),
            },
        })
    }

    fn accept(&self) -> Option<&'static str> {
        matches!(self, Self::Table { .. }).then_some(TABLE)
    }
}

/// One `get`.
struct Get<'a> {
    client: &'a Client,
    args: &'a GetArgs,
    kind: Kind,
    names: Vec<String>,
    format: &'a Format,
    table: TablePrinter,
    /// Version of the one object that was printed by name.
    printed: Option<String>,
}

pub(super) async fn run(
    client: &Client,
    args: &GetArgs,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let format = Format::parse(args.output.as_deref())?;
    let asked = kinds::several(&args.kind, &args.names)?.into_iter();
    let gets: Vec<Get<'_>> = asked
        .map(|(kind, names)| Get::new(client, args, &format, kind, names))
        .collect::<anyhow::Result<_>>()?;
    match <[Get<'_>; 1]>::try_from(gets) {
        Ok([get]) => get.one(out).await,
        Err(gets) => many(gets, &format, args, out).await,
    }
}

/// Several types: a table for each that has something, or one list of everything.
async fn many(
    gets: Vec<Get<'_>>,
    format: &Format,
    args: &GetArgs,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    ensure!(
        !args.watch,
        "watch is only supported on individual resources and resource collections"
    );
    let nothing = match gets.iter().find(|get| get.kind.namespaced()).or(gets.first()) {
        Some(get) => nothing_found(get.kind, get.namespace(), &args.select),
        None => String::new(),
    };
    let (mut tables, mut objects, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for mut get in gets {
        get.table.prefix = format!("{}/", kinds::shown(get.kind));
        let found = get.seek().await?;
        let mut text = String::new();
        for table in found.tables.iter().filter(|table| !table.rows.is_empty()) {
            text.push_str(&get.table.print(table)?);
        }
        if !text.is_empty() {
            tables.push(text);
        }
        objects.extend(found.objects);
        errors.extend(found.errors);
    }
    match format {
        Format::Table { .. } if tables.is_empty() && errors.is_empty() => complain(&nothing),
        Format::Table { .. } => out.text(&tables.join("\n"))?,
        Format::Name => objects.iter().try_for_each(|object| print_name(object, out))?,
        Format::Yaml | Format::Json | Format::JsonPath(_) => {
            print_object(format, &list_of(objects), out)?;
        }
    }
    out.flush()?;
    errors.iter().for_each(show_error);
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The collection with the selectors of the command line.
pub(super) fn listing(kind: Kind, namespace: &str, select: &Select) -> PathBuilder {
    let namespace = (!select.all_namespaces).then_some(namespace);
    PathBuilder::of(kind, &kinds::collection(kind, namespace))
        .with_some("labelSelector", select.selector.as_deref())
        .with_some("fieldSelector", select.field_selector.as_deref())
}

/// What kubectl says about an empty list.
pub(super) fn nothing_found(kind: Kind, namespace: &str, select: &Select) -> String {
    if kind.namespaced() && !select.all_namespaces {
        format!("No resources found in {namespace} namespace.")
    } else {
        "No resources found".to_owned()
    }
}

/// kubectl prefixes a selector that the server refused with what it was looking for.
pub(super) fn explain_selector(error: ClientError, kind: Kind, select: &Select) -> ClientError {
    let ClientError::Refused { mut status } = error else { return error };
    let selecting = select.selector.is_some() || select.field_selector.is_some();
    if status.reason.as_deref() == Some("BadRequest") && selecting {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        status.message = Some(format!(
            "Unable to find \"{}/v1, Resource={}\" that match label selector {:?}, field selector {:?}: {}",
            kind.group(),
            kind.plural(),
            text(&select.selector),
            text(&select.field_selector),
            text(&status.message)
        ));
    }
    ClientError::Refused { status }
}

/// What was found, in the form that was asked for, and what was not.
#[derive(Debug, Default)]
struct Found {
    tables: Vec<Table>,
    objects: Vec<Value>,
    errors: Vec<anyhow::Error>,
}

impl<'a> Get<'a> {
    fn new(
        client: &'a Client,
        args: &'a GetArgs,
        format: &'a Format,
        kind: Kind,
        names: Vec<String>,
    ) -> anyhow::Result<Self> {
        let by_name = !names.is_empty();
        ensure!(
            !(by_name && args.select.all_namespaces && kind.namespaced()),
            "a resource cannot be retrieved by name across all namespaces"
        );
        let selecting = args.select.selector.is_some() || args.select.field_selector.is_some();
        ensure!(!(by_name && selecting), "name cannot be provided when a selector is specified");
        ensure!(
            !args.watch || names.len() <= 1,
            "watch is only supported on individual resources and resource collections"
        );
        let table = TablePrinter {
            columns: Columns::default(),
            definitions: Vec::new(),
            wide: matches!(format, Format::Table { wide: true }),
            namespace: args.select.all_namespaces && kind.namespaced(),
            labels: args.show_labels,
            headers: !args.no_headers,
            prefix: String::new(),
        };
        Ok(Get { client, args, kind, names, format, table, printed: None })
    }

    /// Objects of one type: printed, and followed if that was asked for.
    async fn one(mut self, out: &mut Out) -> anyhow::Result<ExitCode> {
        if self.names.is_empty() {
            let version = self.list(out).await?;
            if self.args.watch {
                return self.watch(version, out).await;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let code = self.named(out).await?;
        if self.args.watch && code == ExitCode::SUCCESS {
            let version = self.catch_up(out).await?;
            return self.watch(version, out).await;
        }
        Ok(code)
    }

    fn namespace(&self) -> &str {
        self.args.target.namespace()
    }

    async fn fetch(&self, path: &PathBuilder) -> Result<Value, ClientError> {
        let send = Ask { accept: self.format.accept(), ..Ask::default() };
        let answer = self.client.json(Method::GET, path.as_str(), send).await;
        answer.map_err(|error| explain_selector(error, self.kind, &self.args.select))
    }

    /// Prints the list; returns its version, from which a watch misses nothing.
    async fn list(&mut self, out: &mut Out) -> anyhow::Result<String> {
        let path = listing(self.kind, self.namespace(), &self.args.select);
        let found = self.fetch(&path.with("limit", "500")).await?;
        let version = resource_version(&found).context("the list has no version")?;
        let rows = if matches!(self.format, Format::Table { .. }) { "rows" } else { "items" };
        let empty = found[rows].as_array().is_none_or(Vec::is_empty);
        match &self.format {
            Format::Table { .. } if empty && !self.args.watch => {
                complain(&nothing_found(self.kind, self.namespace(), &self.args.select));
            }
            Format::Table { .. } => {
                let table: Table = serde_json::from_value(found)?;
                out.text(&self.table.print(&table)?)?;
            }
            Format::Name => {
                for item in found["items"].as_array().into_iter().flatten() {
                    print_name(item, out)?;
                }
            }
            Format::Yaml | Format::Json | Format::JsonPath(_) => {
                let mut found = found;
                let items = found["items"].as_array_mut().map(std::mem::take);
                self.print_object(&list_of(items.unwrap_or_default()), out)?;
            }
        }
        Ok(version)
    }

    /// The list, or each name on its own: what does not exist is an error at the end.
    async fn seek(&self) -> anyhow::Result<Found> {
        let (mut answers, mut found) = (Vec::new(), Found::default());
        if self.names.is_empty() {
            let path = listing(self.kind, self.namespace(), &self.args.select);
            answers.push(self.fetch(&path.with("limit", "500")).await?);
        }
        for name in &self.names {
            let mut segments = kinds::collection(self.kind, Some(self.namespace()));
            segments.push(name);
            match self.fetch(&PathBuilder::of(self.kind, &segments)).await {
                Ok(object) => answers.push(object),
                Err(error) if error.is_not_found() && self.args.ignore_not_found => {}
                Err(error @ ClientError::Refused { .. }) => found.errors.push(error.into()),
                Err(error) => return Err(error.into()),
            }
        }
        if let Format::Table { .. } = self.format {
            let tables = answers.into_iter().map(serde_json::from_value);
            found.tables = tables.collect::<Result<_, _>>()?;
        } else if self.names.is_empty() {
            let items = |mut list: Value| list["items"].as_array_mut().map(std::mem::take);
            found.objects = answers.into_iter().filter_map(items).flatten().collect();
        } else {
            found.objects = answers;
        }
        Ok(found)
    }

    /// What exists of the names is printed.
    async fn named(&mut self, out: &mut Out) -> anyhow::Result<ExitCode> {
        let found = self.seek().await?;
        let of_table = |table: &Table| table.rows.first().and_then(|row| row.object.clone());
        let last = found.tables.last().and_then(of_table);
        self.printed = last.as_ref().or(found.objects.last()).and_then(resource_version);
        for table in &found.tables {
            out.text(&self.table.print(table)?)?;
        }
        if self.names.len() == 1 || matches!(self.format, Format::Name) {
            for object in &found.objects {
                self.print_object(object, out)?;
            }
        } else if !found.objects.is_empty() {
            self.print_object(&list_of(found.objects), out)?;
        }
        out.flush()?;
        found.errors.iter().for_each(show_error);
        Ok(if found.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Lists the one object that was just printed, since its own version may be older than the server remembers. Prints it
    /// again if it has changed since; returns the list's version.
    async fn catch_up(&mut self, out: &mut Out) -> anyhow::Result<String> {
        let found = self.fetch(&self.watched()).await?;
        let version = resource_version(&found).context("the list has no version")?;
        let now = found["rows"][0]["object"]["metadata"]["resourceVersion"].as_str();
        let now = now.or(found["items"][0]["metadata"]["resourceVersion"].as_str());
        if let Some(now) = now.filter(|now| self.printed.as_deref() != Some(*now)) {
            self.printed = Some(now.to_owned());
            let changed = if found["rows"].is_array() { &found } else { &found["items"][0] };
            self.print_change(changed.clone(), out)?;
        }
        Ok(version)
    }

    /// The collection, narrowed to the one name if there is one.
    fn watched(&self) -> PathBuilder {
        let mut select = self.args.select.clone();
        if let [name] = self.names.as_slice() {
            select.field_selector = Some(format!("metadata.name={name}"));
        }
        listing(self.kind, self.namespace(), &select)
    }

    /// Follows what was listed. A watch that the server ends is taken up again where it stopped.
    async fn watch(&mut self, mut version: String, out: &mut Out) -> anyhow::Result<ExitCode> {
        out.flush()?;
        loop {
            let path = self.watched().with("watch", "true").with("allowWatchBookmarks", "true");
            let path = path.with("resourceVersion", &version);
            let ask = Ask { accept: self.format.accept(), ..Ask::default() };
            let answer = self.client.open(Method::GET, path.as_str(), ask).await?;
            let mut lines = Lines::new(answer);
            while let Some(line) = lines.next().await? {
                let mut event: Value = serde_json::from_slice(&line)?;
                let object = event["object"].take();
                version = resource_version(&object).unwrap_or(version);
                match event["type"].as_str() {
                    Some("ERROR") => {
                        let message = object["message"].as_str();
                        bail!("{}", message.unwrap_or("the watch ended with an error"));
                    }
                    Some("BOOKMARK") => {}
                    _ => self.print_change(object, out)?,
                }
            }
        }
    }

    fn print_change(&mut self, object: Value, out: &mut Out) -> anyhow::Result<()> {
        if let Format::Table { .. } = self.format {
            let table: Table = serde_json::from_value(object)?;
            out.text(&self.table.print(&table)?)?;
        } else {
            if let Format::Yaml = self.format {
                out.line("---")?;
            }
            self.print_object(&object, out)?;
        }
        out.flush()
    }

    fn print_object(&self, object: &Value, out: &mut Out) -> anyhow::Result<()> {
        print_object(self.format, object, out)
    }
}

fn list_of(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

fn print_object(format: &Format, object: &Value, out: &mut Out) -> anyhow::Result<()> {
    let mut object = object.clone();
    match format {
        Format::Name => return print_name(&object, out),
        Format::Json | Format::Yaml | Format::JsonPath(_) | Format::Table { .. } => {
            without_managed_fields(&mut object);
        }
    }
    match format {
        Format::Json => {
            let mut text = Vec::new();
            let four = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut text, four);
            serde::Serialize::serialize(&object, &mut serializer)?;
            out.bytes(&text)?;
            out.line("")
        }
        Format::JsonPath(path) => out.text(&path.evaluate(&object)?),
        Format::Yaml | Format::Name | Format::Table { .. } => out.text(&yaml::to_string(&object)),
    }
}

fn print_name(object: &Value, out: &mut Out) -> anyhow::Result<()> {
    let word = object["kind"].as_str().unwrap_or_default().to_ascii_lowercase();
    let kind = kinds::kind(&word).map_or(word, kinds::shown);
    out.line(&format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap_or_default()))
}

fn without_managed_fields(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
}

fn resource_version(object: &Value) -> Option<String> {
    let version =
        |object: &Value| object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    version(object).or_else(|| version(&object["rows"][0]["object"]))
}
