/** Objects, lists and whole values on top of the scanner, in the order of checks serde_json has. */
import { floatText, JsonFloat } from './number-text.ts';
import { BYTE, debugText, describeNumber, JsonError, type JsonNumber, JsonScanner } from './scanner.ts';

/** Nesting serde_json accepts before `recursion limit exceeded`. */
const MAX_DEPTH = 128;

export class JsonReader extends JsonScanner {
  #depth = MAX_DEPTH;

  /** Refuses anything but white space after the value. */
  end(): void {
    if (this.peekToken() !== undefined) throw this.peekError('trailing characters');
  }

  /** `{ "variant": null }`, the long form of a unit enum. */
  externallyTagged<T>(readVariant: (reader: JsonReader) => T): T {
    return this.#nestedValue(() => {
      const variant = readVariant(this);
      this.colon();
      this.positioned(() => {
        this.expectToken();
        if (!this.takeNull()) throw this.invalidType('unit');
      });
      return variant;
    });
  }

  /** `{ … }`: calls `onKey` after each key, which has to step over the colon and read the value. */
  object(onKey: (key: string) => void, onEnd: () => void = () => {}): void {
    this.#nested(
      () => {
        let first = true;
        while (this.#hasNextKey(first)) {
          first = false;
          this.index += 1;
          onKey(this.stringBody());
        }
        onEnd();
      },
      () => this.#endObject(),
    );
  }

  /** Steps over the colon in front of a member's value. */
  colon(): void {
    const byte = this.peekToken();
    if (byte === undefined) throw this.peekError('EOF while parsing an object');
    if (byte !== BYTE.colon) throw this.peekError('expected `:`');
    this.index += 1;
  }

  /** `[ … ]`: `body` reads an item after each true answer of `hasNext`. */
  array(body: (hasNext: () => boolean) => void): void {
    let first = true;
    this.#nested(
      () =>
        body(() => {
          const more = this.#hasNextItem(first);
          first = false;
          return more;
        }),
      () => this.#endArray(),
    );
  }

  /** Any value as plain data; integers beyond 2^53 become `bigint`. */
  value(): unknown {
    return this.positioned(() => {
      const byte = this.expectToken();
      if (this.takeNull()) return null;
      const flag = this.takeBoolean();
      if (flag !== undefined) return flag;
      if (this.isString(byte)) return this.string();
      if (this.isNumber(byte)) return plainNumber(this.number());
      if (this.isArray(byte)) {
        const items: unknown[] = [];
        this.array((hasNext) => {
          while (hasNext()) items.push(this.value());
        });
        return items;
      }
      if (this.isObject(byte)) {
        const members = new Map<string, unknown>();
        this.object((key) => {
          this.colon();
          members.set(key, this.value());
        });
        return Object.fromEntries(members);
      }
      throw this.peekError('expected value');
    });
  }

  /** `invalid type: …, expected X` for whatever comes next; scalars are consumed, containers are not. */
  invalidType(expected: string): JsonError {
    const byte = this.expectToken();
    const seen = this.#describe(byte);
    return seen === undefined
      ? this.peekError('expected value')
      : new JsonError(`invalid type: ${seen}, expected ${expected}`);
  }

  #describe(byte: number): string | undefined {
    if (this.takeNull()) return 'null';
    const flag = this.takeBoolean();
    if (flag !== undefined) return `boolean \`${flag}\``;
    if (this.isNumber(byte)) return describeNumber(this.number());
    if (this.isString(byte)) return `string ${debugText(this.string())}`;
    if (this.isArray(byte)) return 'sequence';
    if (this.isObject(byte)) return 'map';
    return undefined;
  }

  /** serde runs the closing check even when the body failed, which moves the position that is reported. */
  #nested(body: () => void, close: () => void): void {
    this.#depth -= 1;
    if (this.#depth === 0) throw this.peekError('recursion limit exceeded');
    this.index += 1;
    let failure: { error: unknown } | undefined;
    try {
      body();
    } catch (error) {
      failure = { error };
    }
    this.#depth += 1;
    try {
      close();
    } catch (error) {
      failure ??= { error };
    }
    if (failure) throw failure.error;
  }

  /** As an object, but serde_json checks the end of an enum only after success. */
  #nestedValue<T>(body: () => T): T {
    this.index += 1;
    const value = body();
    const byte = this.peekToken();
    if (byte === undefined) throw this.error('EOF while parsing an object');
    if (byte !== BYTE.closeBrace) throw this.error('expected value');
    this.index += 1;
    return value;
  }

  #hasNextKey(first: boolean): boolean {
    let byte = this.peekToken();
    if (byte === BYTE.closeBrace) return false;
    if (byte === undefined) throw this.peekError('EOF while parsing an object');
    if (!first) {
      if (byte !== BYTE.comma) throw this.peekError('expected `,` or `}`');
      this.index += 1;
      byte = this.peekToken();
      if (byte === BYTE.closeBrace) throw this.peekError('trailing comma');
      if (byte === undefined) throw this.peekError('EOF while parsing a value');
    }
    if (byte !== BYTE.quote) throw this.peekError('key must be a string');
    return true;
  }

  #hasNextItem(first: boolean): boolean {
    const byte = this.peekToken();
    if (byte === BYTE.closeBracket) return false;
    if (byte === undefined) throw this.peekError('EOF while parsing a list');
    if (first) return true;
    if (byte !== BYTE.comma) throw this.peekError('expected `,` or `]`');
    this.index += 1;
    const next = this.peekToken();
    if (next === BYTE.closeBracket) throw this.peekError('trailing comma');
    if (next === undefined) throw this.peekError('EOF while parsing a value');
    return true;
  }

  #endObject(): void {
    const byte = this.peekToken();
    if (byte === undefined) throw this.peekError('EOF while parsing an object');
    if (byte === BYTE.comma) throw this.peekError('trailing comma');
    if (byte !== BYTE.closeBrace) throw this.peekError('trailing characters');
    this.index += 1;
  }

  #endArray(): void {
    const byte = this.peekToken();
    if (byte === undefined) throw this.peekError('EOF while parsing a list');
    if (byte === BYTE.comma) {
      this.index += 1;
      throw this.peekError(this.peekToken() === BYTE.closeBracket ? 'trailing comma' : 'trailing characters');
    }
    if (byte !== BYTE.closeBracket) throw this.peekError('trailing characters');
    this.index += 1;
  }
}

/** A float that JavaScript would write in another way is kept as one. */
function plainNumber(number: JsonNumber): number | bigint | JsonFloat {
  if (number.kind === 'float') {
    return String(number.value) === floatText(number.value) ? number.value : new JsonFloat(number.value);
  }
  const plain = Number(number.value);
  return Number.isSafeInteger(plain) ? plain : number.value;
}
