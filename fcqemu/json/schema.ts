/**
 * Typed readers for request bodies, with the semantics of `#[derive(Deserialize)]`: fields in declared
 * order, `deny_unknown_fields`, defaults, unit enums, and structs that may also be written as lists.
 */
import { JsonReader } from './reader.ts';
import { describeNumber, JsonError } from './scanner.ts';

export type Read<T> = (reader: JsonReader) => T;

/** One field of a struct. */
export interface Field<T> {
  read: Read<T>;
  /** value when the field is missing; a field without it is required */
  absent?: () => T;
  /** an `Option` without `#[serde(default)]`: may be missing in an object, not in a list */
  optionalInObjectOnly?: boolean;
}

type Fields = Record<string, Field<unknown>>;

export type StructOf<F extends Fields> = { [K in keyof F]: F[K] extends Field<infer T> ? T : never };

/**
 * Reads one document.
 * @throws JsonError with the text serde_json reports
 */
export function deserialize<T>(bytes: Buffer, read: Read<T>): T {
  const reader = new JsonReader(bytes);
  const value = read(reader);
  reader.end();
  return value;
}

export const string: Read<string> = text('a string');

/** A `PathBuf`: a string with its own name in messages. */
export const path: Read<string> = text('path string');

function text(expected: string): Read<string> {
  return (reader) =>
    reader.positioned(() => {
      if (!reader.isString(reader.expectToken())) throw reader.invalidType(expected);
      return reader.string();
    });
}

export const boolean: Read<boolean> = (reader) =>
  reader.positioned(() => {
    const value = reader.takeBoolean();
    if (value === undefined) throw reader.invalidType('a boolean');
    return value;
  });

/** Bits of Rust's unsigned types; `usize` is 64 bits on every supported host. */
const BITS = { u8: 8n, u16: 16n, u32: 32n, u64: 64n, usize: 64n } as const;

/** An unsigned integer; values above 2^53 lose precision once accepted. */
export function unsigned(type: keyof typeof BITS): Read<number> {
  return (reader) =>
    reader.positioned(() => {
      if (!reader.isNumber(reader.expectToken())) throw reader.invalidType(type);
      const number = reader.number();
      const seen = describeNumber(number);
      if (number.kind === 'float') throw new JsonError(`invalid type: ${seen}, expected ${type}`);
      if (number.value < 0n || number.value >> BITS[type]) {
        throw new JsonError(`invalid value: ${seen}, expected ${type}`);
      }
      return Number(number.value);
    });
}

/** `Option<T>`: null or T. */
export function nullable<T>(read: Read<T>): Read<T | null> {
  return (reader) => {
    reader.peekToken();
    return reader.takeNull() ? null : read(reader);
  };
}

export function list<T>(read: Read<T>): Read<T[]> {
  return (reader) =>
    reader.positioned(() => {
      if (!reader.isArray(reader.expectToken())) throw reader.invalidType('a sequence');
      const items: T[] = [];
      reader.array((hasNext) => {
        while (hasNext()) items.push(read(reader));
      });
      return items;
    });
}

/** A map from strings, e.g. `BTreeMap<String, String>`. */
export function record<T>(read: Read<T>): Read<Record<string, T>> {
  return (reader) =>
    reader.positioned(() => {
      if (!reader.isObject(reader.expectToken())) throw reader.invalidType('a map');
      const members = new Map<string, T>();
      reader.object((key) => {
        reader.colon();
        members.set(key, read(reader));
      });
      return Object.fromEntries(members);
    });
}

/** Any JSON value. */
export const anything: Read<unknown> = (reader) => reader.value();

/** A unit enum by the names of its variants. */
export function oneOf<const T extends string>(...variants: T[]): Read<T> {
  const variant: Read<T> = (reader) =>
    reader.positioned(() => {
      if (!reader.isString(reader.expectToken())) throw reader.invalidType('variant identifier');
      const name = reader.string();
      const known = variants.find((candidate) => candidate === name);
      if (known === undefined) throw new JsonError(`unknown variant \`${name}\`, expected ${alternatives(variants)}`);
      return known;
    });
  return (reader) => {
    const byte = reader.expectToken();
    if (reader.isString(byte)) return variant(reader);
    if (!reader.isObject(byte)) throw reader.peekError('expected value');
    return reader.externallyTagged(variant);
  };
}

/** A string that is checked or converted; `convert` throws JsonError without a position. */
export function converted<T>(convert: (text: string) => T, read: Read<string> = string): Read<T> {
  return (reader) => convert(read(reader));
}

export function required<T>(read: Read<T>): Field<T> {
  return { read };
}

/** `#[serde(default)]`: may be missing, but not null. */
export function defaulted<T>(read: Read<T>, value: NoInfer<T>): Field<T> {
  return { read, absent: () => value };
}

/** `Option<T>`: missing and null are the same. */
export function optional<T>(read: Read<T>): Field<T | null> {
  return { read: nullable(read), absent: () => null, optionalInObjectOnly: true };
}

/** A struct; `name` appears in messages. Unknown fields are refused unless `lenient`. */
export function struct<F extends Fields>(
  name: string,
  fields: F,
  options: { lenient?: boolean } = {},
): Read<StructOf<F>> {
  const names = Object.keys(fields);
  const known = new Map(Object.entries(fields));

  function fromObject(reader: JsonReader): Map<string, unknown> {
    const values = new Map<string, unknown>();
    reader.object(
      (key) => {
        const field = known.get(key);
        if (!field && !options.lenient)
          throw new JsonError(`unknown field \`${key}\`, expected ${alternatives(names)}`);
        if (values.has(key)) throw new JsonError(`duplicate field \`${key}\``);
        reader.colon();
        if (field) values.set(key, field.read(reader));
        else reader.value();
      },
      () => {
        for (const [key, field] of known) {
          if (values.has(key)) continue;
          if (!field.absent) throw new JsonError(`missing field \`${key}\``);
          values.set(key, field.absent());
        }
      },
    );
    return values;
  }

  function fromList(reader: JsonReader): Map<string, unknown> {
    const values = new Map<string, unknown>();
    const expected = `struct ${name} with ${names.length} element${names.length === 1 ? '' : 's'}`;
    reader.array((hasNext) => {
      for (const [key, field] of known) {
        if (hasNext()) values.set(key, field.read(reader));
        else if (field.absent && !field.optionalInObjectOnly) values.set(key, field.absent());
        else throw new JsonError(`invalid length ${values.size}, expected ${expected}`);
      }
    });
    return values;
  }

  return (reader) =>
    reader.positioned(() => {
      const byte = reader.expectToken();
      if (!reader.isObject(byte) && !reader.isArray(byte)) throw reader.invalidType(`struct ${name}`);
      const values = reader.isObject(byte) ? fromObject(reader) : fromList(reader);
      // in the declared order, in which it is written again
      return Object.fromEntries(names.map((field) => [field, values.get(field)])) as StructOf<F>;
    });
}

/** "`a`", "`a` or `b`", "one of `a`, `b`, `c`". */
function alternatives(names: readonly string[]): string {
  const quoted = names.map((name) => `\`${name}\``);
  return quoted.length > 2 ? `one of ${quoted.join(', ')}` : quoted.join(' or ');
}
