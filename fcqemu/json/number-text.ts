/** Numbers and values as serde_json writes them. */

/** A finite float in Rust's shortest form: always with a point or an exponent, e.g. `1.0`, `1e21`. */
export function floatText(value: number): string {
  if (Object.is(value, -0)) return '-0.0';
  const [mantissa = '', exponentText = '0'] = value.toExponential().split('e');
  const exponent = Number(exponentText);
  if (value !== 0 && (exponent < -5 || exponent > 15)) return `${mantissa}e${exponent}`;
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
