/** Numbers and values as serde_json writes them. */

/** A finite float in the shortest form, as serde_json writes it: with a point or an exponent, e.g. `1.0`, `1e+21`. */
export function floatText(value: number): string {
  if (Object.is(value, -0)) return '-0.0';
  const [mantissa = '', exponentText = '0'] = value.toExponential().split('e');
  const exponent = Number(exponentText);
  if (value !== 0 && (exponent < -5 || exponent > 15)) return `${mantissa}e${exponent > 0 ? '+' : ''}${exponent}`;
  const plain = exponent < 0 ? value.toFixed(Math.min(100, decimals(mantissa) - exponent)) : String(value);
  return plain.includes('.') ? plain : `${plain}.0`;
}

function decimals(mantissa: string): number {
  return mantissa.split('.')[1]?.length ?? 0;
}

/** A float such as `1.0`, which as a number would be written like an integer. */
export class JsonFloat {
  readonly value: number;

  constructor(value: number) {
    this.value = value;
  }
}

/** JSON text of plain data; object keys in byte order as serde_json's maps keep them, `bigint` as an integer. */
export function sortedJson(value: unknown): string {
  if (typeof value === 'bigint') return value.toString();
  if (value instanceof JsonFloat) return floatText(value.value);
  if (Array.isArray(value)) return `[${value.map(sortedJson).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const members = Object.entries(value).sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    return `{${members.map(([key, member]) => `${JSON.stringify(key)}:${sortedJson(member)}`).join(',')}}`;
  }
  return JSON.stringify(value);
}

const U64_MAX = 2n ** 64n - 1n;

/** An integer that was read into 64 bits, and may have been rounded beyond them since. */
export function asU64(value: number): bigint {
  const integer = BigInt(value);
  return integer > U64_MAX ? U64_MAX : integer;
}

/** ECMAScript 2026; TypeScript does not know it yet. */
const { rawJSON: rawJson } = JSON as unknown as { rawJSON: (text: string) => object };

/**
 * JSON text of data with a declared shape. Integers above 2^53 have lost digits when they were read; what is written
 * is at least an integer again that fits into 64 bits.
 */
export function structJson(value: unknown): string {
  return JSON.stringify(value, (_, member: unknown) => {
    if (typeof member !== 'number' || member <= Number.MAX_SAFE_INTEGER) return member;
    return rawJson(String(asU64(member)));
  });
}
