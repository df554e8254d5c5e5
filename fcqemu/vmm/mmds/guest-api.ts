/** What the metadata service answers to a guest's HTTP request. */
import {
  applyHeader,
  type Head,
  type HttpVersion,
  parseRequestLine,
  TransportError,
} from '../../http/request-parser.ts';
import { sortedJson } from '../../json/number-text.ts';
import type { MmdsCounter } from './stack.ts';
import { isObject, type Mmds } from './store.ts';
import { MAX_TTL_SECONDS, MIN_TTL_SECONDS, type Tokens } from './tokens.ts';

const TOKEN_PATH = '/latest/api/token';
const TOKEN_HEADERS = ['x-metadata-token', 'x-aws-ec2-metadata-token'];
const TTL_HEADERS = ['x-metadata-token-ttl-seconds', 'x-aws-ec2-metadata-token-ttl-seconds'];

const NO_TOKEN =
  'No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to specify the session token.';
const NO_TTL =
  'Token time to live value not found. Use `X-metadata-token-ttl-seconds` or ' +
  "`X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime.";

interface Answer {
  status: 200 | 400 | 401 | 404 | 405 | 501;
  body: string;
  /** default plain text */
  contentType?: 'application/json';
  /** further header lines */
  headers?: string;
}

export class GuestApi {
  readonly #store: Mmds;
  readonly #tokens: Tokens;
  readonly #count: (counter: MmdsCounter) => void;

  constructor(store: Mmds, tokens: Tokens, count: (counter: MmdsCounter) => void) {
    this.#store = store;
    this.#tokens = tokens;
    this.#count = count;
  }

  /** @param request request line and headers, with the empty line behind them */
  answer(request: Buffer): Buffer {
    let version: HttpVersion = 'HTTP/1.1';
    let answer: Answer;
    try {
      const head = parseHead(request);
      version = head.version;
      answer = this.#respond(head);
    } catch (error) {
      if (!(error instanceof TransportError)) throw error;
      answer = refusal(error);
    }
    const { status, body, contentType = 'text/plain', headers = '' } = answer;
    return Buffer.from(
      `${version} ${status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n${headers}` +
        `Content-Type: ${contentType}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    );
  }

  #respond(head: Head): Answer {
    if (head.path === '') return { status: 400, body: 'Invalid URI.' };
    switch (head.method) {
      case 'GET':
        return this.#refuseToken(head) ?? this.#get(head);
      case 'PUT':
        return this.#createToken(head);
      default:
        return { status: 405, body: 'Not allowed HTTP method.', headers: 'Allow: GET, PUT\r\n' };
    }
  }

  /** In version 1 a token is counted and not asked for. */
  #refuseToken(head: Head): Answer | undefined {
    const isRequired = this.#store.config?.version === 'V2';
    const token = headerOf(head, TOKEN_HEADERS);
    if (!token) {
      this.#count('rx_no_token');
      return isRequired ? { status: 401, body: NO_TOKEN } : undefined;
    }
    if (this.#tokens.isValid(token.value)) return undefined;
    this.#count('rx_invalid_token');
    return isRequired ? { status: 401, body: 'MMDS token not valid.' } : undefined;
  }

  #get({ path, acceptsJson }: Head): Answer {
    const value = this.#store.find(strictPath(path).replace(/\/$/, ''));
    if (value === undefined) return { status: 404, body: `Resource not found: ${path}.` };
    if (acceptsJson && !this.#store.config?.imds_compat) {
      return { status: 200, body: sortedJson(value), contentType: 'application/json' };
    }
    const text = imdsText(value);
    if (text !== undefined) return { status: 200, body: text };
    return { status: 501, body: 'Cannot retrieve value. The value has an unsupported type.' };
  }

  #createToken(head: Head): Answer {
    const forwarded = headerOf(head, ['x-forwarded-for']);
    if (forwarded) {
      return { status: 400, body: `Invalid header. Reason: Unsupported header name. Key: ${forwarded.name}` };
    }
    if (strictPath(head.path) !== TOKEN_PATH) return { status: 404, body: `Resource not found: ${head.path}.` };
    const ttl = headerOf(head, TTL_HEADERS);
    if (!ttl) return { status: 400, body: NO_TTL };
    const seconds = /^\+?\d+$/.test(ttl.value) ? Number(ttl.value) : Number.NaN;
    if (!(seconds <= 0xffff_ffff)) {
      return { status: 400, body: `Invalid header. Reason: Invalid value. Key:${ttl.name}; Value:${ttl.value}` };
    }
    if (seconds < MIN_TTL_SECONDS || seconds > MAX_TTL_SECONDS) {
      const range = `between ${MIN_TTL_SECONDS} and ${MAX_TTL_SECONDS}`;
      const body = `Invalid time to live value provided for token: ${seconds}. Please provide a value ${range}.`;
      return { status: 400, body };
    }
    return { status: 200, body: this.#tokens.create(seconds), headers: `${ttl.name}: ${seconds}\r\n` };
  }
}

function parseHead(request: Buffer): Head {
  const lines = request.toString('latin1').split('\r\n').slice(0, -2);
  const head = parseRequestLine(Buffer.from(lines[0] ?? '', 'latin1'));
  for (const line of lines.slice(1)) applyHeader(head, Buffer.from(line, 'latin1'));
  // nothing behind the headers is read, so a body can never be as long as it was said to be
  if (head.contentLength > 0) throw new TransportError('Invalid request.');
  return head;
}

/** Methods and versions nobody knows are "not implemented"; the texts come without the parser's prefix. */
function refusal({ message }: TransportError): Answer {
  const unknown = /^Invalid HTTP (?:Method|Version): (.*)$/s.exec(message)?.[1];
  if (unknown !== undefined) return { status: 501, body: unknown };
  return { status: 400, body: message.replace(/^Invalid URI: /, '') };
}

function headerOf(head: Head, names: string[]): { name: string; value: string } | undefined {
  const found = head.custom.find(([name]) => names.includes(name.toLowerCase()));
  return found && { name: found[0], value: found[1] };
}

function strictPath(path: string): string {
  return path.replace(/\/{2,}/g, '/');
}

/** The form of EC2's service: the keys of an object, a line each, or a string as it is. */
function imdsText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (!isObject(value)) return undefined;
  return Object.entries(value)
    .sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    .map(([key, member]) => (isObject(member) ? `${key}/` : key))
    .join('\n');
}
