/** The terminal a command is typed on, with all a command sees of its process; tests give their own. */
import type { Readable, Writable } from 'node:stream';
import type { Client, ClientOptions } from '../client/client.ts';
import type { Argv } from '../system/runner.ts';

/** Where text goes. */
export interface Output extends Writable {
  isTTY?: boolean;
  /** width in characters, when it is a terminal */
  columns?: number;
  /** height in lines, when it is a terminal */
  rows?: number;
}

/** Where input comes from. */
export interface Input extends Readable {
  isTTY?: boolean;
  setRawMode?: (raw: boolean) => unknown;
}

export interface InteractiveOptions {
  /** where its standard output goes; `stdout` by default */
  output?: 'stdout' | 'stderr';
  /** variables it gets besides those of this process */
  env?: Readonly<Record<string, string>>;
}

export interface Terminal {
  stdin: Input;
  stdout: Output;
  stderr: Output;
  env: NodeJS.ProcessEnv;
  /** effective user id */
  uid: number;
  cwd: string;
  /** command line that starts this very program, without arguments */
  self: Argv;
  /** calls back for a signal, in place of its usual effect, until disposed */
  onSignal(signal: NodeJS.Signals, handler: () => void): Disposable;
  /** ends this process when whoever reads its output has left: `logs -f | head -1` must not wait for the next line */
  endWithReader?(): void;
  /** runs a program on this terminal and returns its exit status, 128 + number after a signal */
  runInteractive(argv: Argv, options?: InteractiveOptions): Promise<number>;
  /** becomes the daemon; resolves when it has stopped, by request or signal */
  runDaemon(): Promise<void>;
  /** makes the client of the daemon; the real one by default */
  createClient?: (options: ClientOptions) => Client;
}
