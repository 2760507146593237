//! JSON Schema of a file format, made from the types that read it.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::Value;

/// The schema of a whole file.
pub(crate) fn of<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft07().with_transform(RecursiveTransform(Tidy));
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    if let Some(Value::Object(definitions)) = schema.get_mut("definitions") {
        *definitions = std::mem::take(definitions)
            .into_iter()
            .map(|(name, schema)| (public(&name).to_owned(), schema))
            .collect();
    }
    schema.to_value()
}

/// `Api` from `RawApi`: that a type is the raw one is nothing to the author of a file.
fn public(name: &str) -> &str {
    name.strip_prefix("Raw").unwrap_or(name)
}

/// Takes out what the types say about Rust and not about the file.
#[derive(Debug, Clone)]
struct Tidy;

impl Transform for Tidy {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(Value::String(reference)) = schema.get_mut("$ref")
            && let Some(name) = reference.strip_prefix("#/definitions/")
        {
            *reference = format!("#/definitions/{}", public(name));
        }
        // A key is there or not; `null` is refused by the decoder.
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                schema.insert("type".to_owned(), only);
            }
        }
        let mut single = None;
        if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
            choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
            if let [only] = choices.as_slice() {
                single = Some(only.clone());
            }
        }
        if let Some(only) = single {
            schema.remove("anyOf");
            // Draft 7 ignores what stands beside `$ref`; `allOf` keeps the description of the key.
            schema.insert("allOf".to_owned(), Value::Array(vec![only]));
        }
        if let Some(Value::Array(values)) = schema.get_mut("enum") {
            values.retain(|value| !value.is_null());
        }
        // `uint32` and the like are sizes of Rust types; `minimum` and `maximum` say it to everyone.
        schema.remove("format");
        // Defaults are told in the descriptions; empty lists and the like tell nothing.
        schema.remove("default");
    }
}
