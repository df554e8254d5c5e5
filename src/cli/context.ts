/** What a command gets to work with: the daemon, the terminal, and how the person wants to be talked to. */
import { type Client, type ClientOptions, createClient } from '../client/client.ts';
import {
  activationMark,
  daemonLogFile,
  managerDirectory,
  type Paths,
  pidFile,
  resolvePaths,
  socketPath,
} from '../config/paths.ts';
import type { BangerError } from '../errors.ts';
import { VERSION } from '../version.ts';
import type { Entry } from './entry.ts';
import { renderError } from './output/error.ts';
import { createPaint, type Paint } from './output/paint.ts';
import { plainJson, plainPainted, plainText } from './output/plain-text.ts';
import type { ProgressView } from './output/progress.ts';
import { type Interrupts, watchInterrupts } from './shared/interrupts.ts';
import { withNextCommand } from './shared/next-command.ts';
import type { Terminal } from './terminal.ts';

export interface Context {
  readonly terminal: Terminal;
  readonly json: boolean;
  readonly quiet: boolean;
  /** what was typed after `banger`, to be repeated in hints */
  readonly argv: readonly string[];
  /** every command there is */
  readonly commands: readonly Entry[];
  readonly paths: Paths;
  /** paints what goes to stdout */
  readonly paint: Paint;
  /** the daemon, started when none runs */
  readonly api: Client;
  /** the daemon, `daemon_unreachable` when none runs */
  readonly runningApi: Client;
  /** exit status so far */
  status: number;
  /** writes data to stdout */
  print(text: string): void;
  /** writes a closing sentence to stdout; not with --json or --quiet */
  say(text: string): void;
  /** writes a line to stderr; not with --quiet */
  talk(text: string): void;
  /** writes a warning to stderr */
  warn(text: string): void;
  /** shows an error and remembers its exit status; the first one counts */
  fail(error: BangerError): void;
  /** where running operations are shown */
  view(): Promise<ProgressView>;
  /** Ctrl-C and SIGTERM, which no longer end the process from here on */
  interrupts(): Interrupts;
}

export interface ContextOptions {
  /** the command as it was typed, without `banger` */
  typed: string;
  json: boolean;
  quiet: boolean;
  argv: readonly string[];
  commands: readonly Entry[];
}

export function createContext(terminal: Terminal, options: ContextOptions): Context & Disposable {
  const paths = resolvePaths(terminal.env, terminal.uid);
  const paint = createPaint(terminal.stdout, terminal.env);
  const paintErrors = createPaint(terminal.stderr, terminal.env);
  const coloured = paint('dim', 'x') !== 'x';
  let view: ProgressView | undefined;
  let interrupts: (Interrupts & Disposable) | undefined;
  let versionSeen = false;

  const ctx: Context & Disposable = {
    terminal,
    json: options.json,
    quiet: options.quiet,
    argv: options.argv,
    commands: options.commands,
    paths,
    paint,
    api: clientOf({ startDaemon: () => startDaemonFor(ctx) }),
    runningApi: clientOf({ isRunning: () => isRunning(paths) }),
    status: 0,
    print(text) {
      const shown = options.json ? plainJson(text) : coloured ? plainPainted(text) : plainText(text);
      write(terminal.stdout, `${shown}\n`);
    },
    say: (text) => {
      if (!options.json && !options.quiet) write(terminal.stdout, `${plainText(text)}\n`);
    },
    talk: (text) => {
      if (!options.quiet) write(terminal.stderr, `${plainText(text)}\n`);
    },
    warn: (text) => write(terminal.stderr, `${paintErrors('yellow', 'banger: warning:')} ${plainText(text)}\n`),
    fail: (error) => {
      write(terminal.stderr, renderError(withNextCommand(error, options.typed), paintErrors));
      ctx.status ||= error.exitStatus;
    },
    async view() {
      if (view) return view;
      const { createView } = await import('./output/view.ts');
      // two operations may have asked while it was loading
      view ??= await createView(terminal, { quiet: options.quiet, paint: paintErrors });
      return view;
    },
    interrupts() {
      interrupts ??= watchInterrupts(terminal);
      return interrupts;
    },
    [Symbol.dispose]() {
      view?.close();
      interrupts?.[Symbol.dispose]();
    },
  };
  return ctx;

  /** Text and progress share a terminal: what is drawn makes room first. */
  function write(output: Terminal['stdout'], text: string): void {
    view?.clear();
    output.write(text);
  }

  function clientOf(reach: Pick<ClientOptions, 'startDaemon' | 'isRunning'>): Client {
    return (terminal.createClient ?? createClient)({
      socketPath: socketPath(paths),
      ...reach,
      onVersion(version) {
        if (version === VERSION || versionSeen) return;
        versionSeen = true;
        ctx.warn(
          `the daemon is version ${version}, this is ${VERSION}; \`banger daemon stop\` replaces it, VMs keep running`,
        );
      },
    });
  }
}

async function isRunning(paths: Paths): Promise<boolean> {
  const { isDaemonRunning } = await import('../client/activated.ts');
  return await isDaemonRunning(activationMark(paths), pidFile(paths));
}

/** Has systemd start the daemon, or starts it, and waits for its socket. Throws `daemon_unreachable` with its last words. */
async function startDaemonFor({ terminal, paths, talk }: Context): Promise<void> {
  const [{ answers, startDaemon }, { startSocketUnit }, { createRunner }] = await Promise.all([
    import('../client/daemon-start.ts'),
    import('../client/activated.ts'),
    import('../system/runner.ts'),
  ]);
  const runner = createRunner(terminal.env);
  const { self, env, uid } = terminal;
  const bySystemd = await startSocketUnit({ self, env, uid, runner, managerDirectory: managerDirectory(env, uid) });
  if (bySystemd && (await answers(socketPath(paths)))) return;
  await startDaemon({
    argv: [...terminal.self, 'daemon', 'run'],
    socketPath: socketPath(paths),
    logFile: daemonLogFile(paths),
    env: terminal.env,
    runner,
    onSlow: () => talk('The daemon is starting; this host takes its time …'),
  });
}
