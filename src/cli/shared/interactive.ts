/** Programs that take over this terminal for a while: ssh, scp, and what `doctor --fix` runs. */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { BangerError, systemCode } from '../../errors.ts';
import type { Argv } from '../../system/runner.ts';

/** Keys that the terminal turns into signals reach the program as well as us; they are its business. */
const TERMINAL_SIGNALS = ['SIGINT', 'SIGQUIT'] as const;
/** Sent to us alone, so they are passed on. */
const PASSED_SIGNALS = ['SIGTERM', 'SIGHUP'] as const;

/**
 * Runs a program with this process's own input, output and terminal; its output may go to standard error instead.
 * @returns its exit status, 128 + number when a signal ended it
 * @throws BangerError `host_unprepared` when the program is not installed
 */
export async function runInteractive(
  argv: Argv,
  env: NodeJS.ProcessEnv,
  onSignal: (signal: NodeJS.Signals, handler: () => void) => Disposable,
  output: 'stdout' | 'stderr' = 'stdout',
): Promise<number> {
  const [program, ...args] = argv;
  using signals = new DisposableStack();
  for (const signal of TERMINAL_SIGNALS) signals.use(onSignal(signal, () => {}));
  const child = spawn(program, args, { stdio: ['inherit', output === 'stdout' ? 'inherit' : 2, 'inherit'], env });
  for (const signal of PASSED_SIGNALS) signals.use(onSignal(signal, () => child.kill(signal)));
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  // on, not once: each signal that may not be sent to what runs as root is one more
  child.on('error', (error) => {
    if (child.pid === undefined) reject(startError(program, error));
  });
  child.once('close', (code, signal) => resolve(code ?? 128 + (signal ? constants.signals[signal] : 0)));
  return await promise;
}

function startError(program: string, error: Error): BangerError {
  const what =
    systemCode(error) === 'ENOENT'
      ? `The program \`${program}\` is not installed.`
      : `\`${program}\` cannot be run: ${error.message}`;
  return new BangerError('host_unprepared', what, {
    cause: error,
    hint: 'See what installs it here: banger doctor',
  });
}
