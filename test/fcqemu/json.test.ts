/** The JSON reader must word its errors as serde_json does; the expected texts are facts about serde_json 1.0. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { floatText, JsonFloat, sortedJson, structJson } from '../../fcqemu/json/number-text.ts';
import { debugText } from '../../fcqemu/json/scanner.ts';
import * as json from '../../fcqemu/json/schema.ts';

const machine = json.struct('MachineConfig', {
  vcpu_count: json.required(json.unsigned('u8')),
  mem_size_mib: json.required(json.unsigned('usize')),
  smt: json.defaulted(json.boolean, false),
  huge_pages: json.defaulted(json.oneOf('None', '2M'), 'None'),
  note: json.optional(json.string),
});

const backend = json.struct('MemBackendConfig', {
  backend_path: json.required(json.path),
  backend_type: json.required(json.oneOf('File', 'Uffd')),
});

const load = json.struct('LoadSnapshotConfig', {
  snapshot_path: json.required(json.path),
  mem_backend: json.optional(backend),
  names: json.defaulted(json.list(json.string), []),
});

const bucket = json.struct(
  'TokenBucketConfig',
  { size: json.required(json.unsigned('u64')), refill_time: json.required(json.unsigned('u64')) },
  { lenient: true },
);

const limiter = json.struct('RateLimiterConfig', { bandwidth: json.optional(bucket), ops: json.optional(bucket) });

function messageFor(text: string | Buffer, read: json.Read<unknown>): string {
  try {
    json.deserialize(Buffer.from(text as string), read);
  } catch (error) {
    return (error as Error).message;
  }
  throw new assert.AssertionError({ message: `accepted: ${text}` });
}

/** Integers beyond 2^53 are `bigint` here and rounded by JSON.parse, which also knows `-0`; some floats stay floats. */
function withoutBigints(value: unknown): unknown {
  if (value instanceof JsonFloat) return value.value + 0;
  if (typeof value === 'bigint' || typeof value === 'number') return Number(value) + 0;
  if (Array.isArray(value)) return value.map(withoutBigints);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, withoutBigints(member)]));
}

describe('the JSON reader', () => {
  it('fills in defaults and accepts null for options only', () => {
    assert.deepEqual(json.deserialize(Buffer.from(' {"mem_size_mib": 128,\n"vcpu_count":1} '), machine), {
      vcpu_count: 1,
      mem_size_mib: 128,
      smt: false,
      huge_pages: 'None',
      note: null,
    });
    assert.equal(
      messageFor('{"vcpu_count":1,"mem_size_mib":1,"smt":null}', machine),
      'invalid type: null, expected a boolean at line 1 column 43',
    );
  });

  const cases: [string, json.Read<unknown>, string][] = [
    // texts asserted by Firecracker's own tests
    ['{"mem_size_mib": 128}', machine, 'missing field `vcpu_count` at line 1 column 21'],
    ['{"vcpu_count": 2}', machine, 'missing field `mem_size_mib` at line 1 column 17'],
    [
      '{\n            "snapshot_path": "foo",\n            "mem_backend": {\n                "backend_path": "bar"\n            }\n        }',
      load,
      'missing field `backend_type` at line 5 column 13',
    ],
    [
      '{\n            "snapshot_path": "foo",\n            "mem_backend": {\n                "backend_type": "File",\n            }\n        }',
      load,
      'trailing comma at line 5 column 13',
    ],
    [
      '{\n            "mem_backend": {\n                "backend_path": "bar",\n                "backend_type": "Uffd"\n            }\n        }',
      load,
      'missing field `snapshot_path` at line 6 column 9',
    ],
    // fields
    ['{"x":1}', bucket, 'missing field `size` at line 1 column 7'],
    [
      '{"vcpus":1}',
      machine,
      'unknown field `vcpus`, expected one of `vcpu_count`, `mem_size_mib`, `smt`, `huge_pages`, `note` at line 1 column 8',
    ],
    ['{"bytes" :1}', limiter, 'unknown field `bytes`, expected `bandwidth` or `ops` at line 1 column 9'],
    ['{"size":1,"size":2}', bucket, 'duplicate field `size` at line 1 column 16'],
    // values
    ['{"vcpu_count": 256}', machine, 'invalid value: integer `256`, expected u8 at line 1 column 18'],
    ['{"vcpu_count": -1}', machine, 'invalid value: integer `-1`, expected u8 at line 1 column 17'],
    ['{"vcpu_count": 1.0}', machine, 'invalid type: floating point `1.0`, expected u8 at line 1 column 18'],
    ['{"vcpu_count": "2"}', machine, 'invalid type: string "2", expected u8 at line 1 column 18'],
    ['{"vcpu_count": [2]}', machine, 'invalid type: sequence, expected u8 at line 1 column 15'],
    ['{"vcpu_count": {}}', machine, 'invalid type: map, expected u8 at line 1 column 15'],
    [
      '{"mem_size_mib": 18446744073709551616}',
      machine,
      'invalid type: floating point `1.8446744073709552e+19`, expected usize at line 1 column 37',
    ],
    ['{"smt": 1}', machine, 'invalid type: integer `1`, expected a boolean at line 1 column 9'],
    ['{"note": true}', machine, 'invalid type: boolean `true`, expected a string at line 1 column 13'],
    ['{"snapshot_path": 7}', load, 'invalid type: integer `7`, expected path string at line 1 column 19'],
    ['{"names": "a"}', load, 'invalid type: string "a", expected a sequence at line 1 column 13'],
    ['{"names": [1]}', load, 'invalid type: integer `1`, expected a string at line 1 column 12'],
    ['"hi\\n"', machine, 'invalid type: string "hi\\n", expected struct MachineConfig at line 1 column 6'],
    ['7', machine, 'invalid type: integer `7`, expected struct MachineConfig at line 1 column 1'],
    // enums
    ['{"huge_pages": "7M"}', machine, 'unknown variant `7M`, expected `None` or `2M` at line 1 column 19'],
    ['{"huge_pages": 7}', machine, 'expected value at line 1 column 16'],
    // structs written as lists
    ['[]', machine, 'invalid length 0, expected struct MachineConfig with 5 elements at line 1 column 2'],
    ['[1, 2, true, "None", null, 6]', machine, 'trailing characters at line 1 column 28'],
    // syntax
    ['', machine, 'EOF while parsing a value at line 1 column 0'],
    ['{', machine, 'EOF while parsing an object at line 1 column 1'],
    ['{"vcpu_count"', machine, 'EOF while parsing an object at line 1 column 13'],
    ['{"vcpu_count":', machine, 'EOF while parsing a value at line 1 column 14'],
    ['{"vcpu_count" 1}', machine, 'expected `:` at line 1 column 15'],
    ['{"vcpu_count": 01}', machine, 'invalid number at line 1 column 17'],
    ['{"vcpu_count": 1 "smt": true}', machine, 'expected `,` or `}` at line 1 column 18'],
    ['{vcpu_count: 1}', machine, 'key must be a string at line 1 column 2'],
    ['{"vcpu_count": nope}', machine, 'expected ident at line 1 column 17'],
    ['{"vcpu_count": ?}', machine, 'expected value at line 1 column 16'],
    ['{"names": ["a" "b"]}', load, 'expected `,` or `]` at line 1 column 16'],
    ['{"names": ["a",]}', load, 'trailing comma at line 1 column 16'],
    ['{"names": ["a', load, 'EOF while parsing a string at line 1 column 13'],
    [
      '{"note": "a\nb"}',
      machine,
      'control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0',
    ],
    ['{"note": "\\x"}', machine, 'invalid escape at line 1 column 12'],
    ['{"vcpu_count":1,"mem_size_mib":1} x', machine, 'trailing characters at line 1 column 35'],
    ['invalid_payload', machine, 'expected value at line 1 column 1'],
  ];
  for (const [text, read, expected] of cases) {
    it(`answers ${JSON.stringify(text.slice(0, 60))} with "${expected}"`, () => {
      assert.equal(messageFor(text, read), expected);
    });
  }

  it('counts columns in bytes and refuses bytes that are no UTF-8', () => {
    assert.equal(messageFor('{"ü":1}', limiter), 'unknown field `ü`, expected `bandwidth` or `ops` at line 1 column 5');
    assert.equal(
      messageFor(Buffer.from([0x22, 0xff, 0x22]), json.string),
      'invalid unicode code point at line 1 column 3',
    );
  });

  it('takes a struct written as a list and a unit enum written as an object', () => {
    assert.deepEqual(json.deserialize(Buffer.from('[1,2,true,{"2M":null},null]'), machine), {
      vcpu_count: 1,
      mem_size_mib: 2,
      smt: true,
      huge_pages: '2M',
      note: null,
    });
  });

  it('gives up at 128 levels', () => {
    const nested = (levels: number) => Buffer.from('['.repeat(levels) + ']'.repeat(levels));
    assert.ok(json.deserialize(nested(127), json.anything));
    assert.throws(() => json.deserialize(nested(128), json.anything), /recursion limit exceeded at line 1 column 128/);
  });

  it('agrees with JSON.parse about every document that is JSON', () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        const value = json.deserialize(Buffer.from(text), json.anything);
        assert.deepEqual(withoutBigints(value), withoutBigints(JSON.parse(text)));
      }),
    );
  });

  it('refuses whatever JSON.parse refuses', () => {
    const inserts = fc.constantFrom('', ',', '"', '}', ']', '\\', '\u0001', 'e', '-', '0');
    fc.assert(
      fc.property(fc.json(), fc.nat(), inserts, (text, seed, insert) => {
        const at = seed % text.length;
        const broken = text.slice(0, at) + insert + text.slice(at + 1);
        try {
          JSON.parse(broken);
        } catch {
          assert.throws(() => json.deserialize(Buffer.from(broken), json.anything), { name: 'JsonError' }, broken);
        }
      }),
    );
  });
});

describe('text in Rust’s debug form', () => {
  it('escapes what cannot be seen, and nothing else', () => {
    assert.equal(debugText('a "b"\\ \n\t\0\x7f'), '"a \\"b\\"\\\\ \\n\\t\\0\\u{7f}"');
    assert.equal(debugText('\ufeff{}\u200b\u00a0\u2028'), '"\\u{feff}{}\\u{200b}\\u{a0}\\u{2028}"');
    assert.equal(debugText("é ü 😀 '"), '"é ü 😀 \'"');
  });
});

describe('numbers and objects as serde_json writes them', () => {
  it('gives every float a point or an exponent', () => {
    assert.deepEqual([1, 1.5, -0, 1e15, 1e16, 1.5e-5, 1e-6, 123456.789].map(floatText), [
      '1.0',
      '1.5',
      '-0.0',
      '1000000000000000.0',
      '1e+16',
      '0.000015',
      '1e-6',
      '123456.789',
    ]);
  });

  it('sorts keys and keeps 64-bit integers exact', () => {
    const value = json.deserialize(
      Buffer.from('{"b":18446744073709551615,"a":[{"z":null,"y":"\\u00e9"}]}'),
      json.anything,
    );
    assert.equal(sortedJson(value), '{"a":[{"y":"é","z":null}],"b":18446744073709551615}');
  });

  it('keeps large integers within 64 bits', () => {
    assert.equal(
      structJson({ size: Number(2n ** 64n - 1n), text: '18446744073709552000' }),
      '{"size":18446744073709551615,"text":"18446744073709552000"}',
    );
    assert.equal(structJson([2 ** 60, 7, 0.5, null]), '[1152921504606846976,7,0.5,null]');
  });
});
