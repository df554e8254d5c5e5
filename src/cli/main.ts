/** The command line from arguments to exit status. */
import { asBangerError } from '../errors.ts';
import { VERSION } from '../version.ts';
import { createContext } from './context.ts';
import { namesOf } from './entry.ts';
import { renderError } from './output/error.ts';
import { createPaint } from './output/paint.ts';
import { parseCommand } from './parse.ts';
import { findEntry, REGISTRY } from './registry.ts';
import { inFlags } from './shared/flag-names.ts';
import { withNextCommand } from './shared/next-command.ts';
import { withVmNames } from './shared/vm-names.ts';
import type { Terminal } from './terminal.ts';

/** Exit status of a command line that says nothing to do. */
const EXIT_USAGE = 2;
/** Flags that may also stand before the command. */
const LEADING_FLAGS = new Set(['--json', '-q', '--quiet']);

/**
 * Runs one command line.
 * @returns the exit status
 */
export async function main(argv: readonly string[], terminal: Terminal): Promise<number> {
  try {
    return await dispatch(argv, terminal);
  } catch (error) {
    const failure = withNextCommand(asBangerError(error), '');
    terminal.stderr.write(renderError(failure, createPaint(terminal.stderr, terminal.env)));
    return failure.exitStatus;
  }
}

async function dispatch(argv: readonly string[], terminal: Terminal): Promise<number> {
  if (argv[0] === '--version' || argv[0] === '-V') {
    terminal.stdout.write(`banger ${VERSION}\n`);
    return 0;
  }
  const words = helpLast(argv);
  const leading = words.findIndex((word) => !LEADING_FLAGS.has(word));
  const found = findEntry(words.slice(Math.max(leading, 0)));
  if (!found) return await showOverview(words, terminal);

  const { entry, typed } = found;
  const rest = [...words.slice(0, Math.max(leading, 0)), ...found.rest];
  const { default: command } = await entry.load();
  const parsed = parseCommand(command, rest, {
    typed,
    summary: entry.summary,
    otherNames: namesOf(entry),
    output: terminal.stdout,
  });
  if ('help' in parsed) {
    terminal.stdout.write(parsed.help);
    return 0;
  }
  using ctx = createContext(terminal, { typed, json: parsed.json, quiet: parsed.quiet, argv, commands: REGISTRY });
  try {
    const args = await withVmNames(command, parsed.input.args, terminal);
    await command.execute(ctx, { ...parsed.input, args });
  } catch (error) {
    const failure = asBangerError(error);
    // a refusal of the daemon names a field
    ctx.fail(failure.code === 'invalid_input' ? inFlags(failure) : failure);
  }
  return ctx.status;
}

/** `banger help vm start` is `banger vm start --help`. */
function helpLast(argv: readonly string[]): readonly string[] {
  return argv[0] === 'help' ? [...argv.slice(1), '--help'] : argv;
}

async function showOverview(words: readonly string[], terminal: Terminal): Promise<number> {
  const { overview } = await import('./output/overview.ts');
  const { text, asked } = overview(words, terminal.stdout);
  (asked ? terminal.stdout : terminal.stderr).write(text);
  return asked ? 0 : EXIT_USAGE;
}
