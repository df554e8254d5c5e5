/**
 * Sequences of requests with the answers Firecracker 1.16.1 gave to them. Data files hold each request and each answer
 * once; a sequence is a list of pairs of their numbers.
 */
import { readFileSync } from 'node:fs';

/** Method, path and body of a request, the body as it is on the wire (latin1). */
export type Request = [method: string, path: string, body?: string];

/** A request, bytes that may be none, or something that is looked at. */
export type Step =
  | Request
  | { signal: NodeJS.Signals }
  | { raw: string }
  | { file: string }
  | { exists: string[] }
  | { sleepMs: number };

export interface Sequence {
  name: string;
  /** options of the command line besides the API socket */
  options: string[];
  steps: Step[];
  /** what is answered or seen, step by step, in the form `formatAnswer` gives it */
  expected: string[];
  /** Firecracker lists devices of a started machine in no order */
  unordered: boolean;
  /** requests to another process, which was killed before this one was started; all succeed */
  prelude?: Request[];
  /** files that are removed, cut or changed in between */
  remove?: string[];
  truncate?: [name: string, bytes: number][];
  flip?: [name: string, at: number][];
}

/** The process ended instead of answering, with this status. */
export function endedWith(code: number): string {
  return `ended ${code}`;
}

export interface PlainAnswer {
  status: number;
  deprecated: boolean;
  body: string;
}

/** `204`, `400 fault message`, `200 {"the": "body"}`; with a `D` after the status when something is deprecated. */
export function formatAnswer({ status, deprecated, body }: PlainAnswer): string {
  const head = `${status}${deprecated ? 'D' : ''}`;
  if (body === '') return head;
  const [, fault] = /^\{"fault_message":("(?:[^"\\]|\\.)*")\}$/.exec(body) ?? [];
  return `${head} ${fault === undefined ? body : (JSON.parse(fault) as string)}`;
}

interface DataFile {
  requests: Step[];
  answers: string[];
  unordered?: boolean;
  sequences: Record<string, Omit<Sequence, 'name' | 'steps' | 'expected' | 'options' | 'unordered'> & StoredSequence>;
}

interface StoredSequence {
  options?: string[];
  steps: [request: number, answer: number][];
}

/** The sequences of a file in `data/`. */
export function readSequences(name: string): Sequence[] {
  const url = new URL(`data/${name}.json`, import.meta.url);
  const { requests, answers, sequences, unordered = false } = JSON.parse(readFileSync(url, 'utf8')) as DataFile;
  return Object.entries(sequences).map(([key, { options = [], steps, ...rest }]) => ({
    ...rest,
    name: key,
    options,
    unordered,
    steps: steps.map(([request]) => requests[request] ?? ['GET', '/']),
    expected: steps.map(([, answer]) => answers[answer] ?? ''),
  }));
}

/** Lists of devices in the order of their ids. */
export function ordered(answer: string): string {
  const [, head, body] = /^(200 )(\{.*"drives":.*\})$/s.exec(answer) ?? [];
  if (head === undefined || body === undefined) return answer;
  const config = JSON.parse(body) as Record<string, Record<string, unknown>[]>;
  for (const [section, id] of [
    ['drives', 'drive_id'],
    ['network-interfaces', 'iface_id'],
  ] as const) {
    config[section]?.sort((a, b) => (String(a[id]) < String(b[id]) ? -1 : 1));
  }
  return head + JSON.stringify(config);
}
