/** `banger doctor`: every preflight check, and the command that fixes each "no". */
import type { CheckResult, DoctorCommand, DoctorReport } from '../../../api/system.ts';
import { nearest } from '../../../config/nearest.ts';
import { BangerError } from '../../../errors.ts';
import { type Argv, commandLine } from '../../../system/runner.ts';
import { defineCommand } from '../../command.ts';
import type { Context } from '../../context.ts';
import type { Colour, Paint } from '../../output/paint.ts';
import { renderFields } from '../../output/table.ts';
import { withRights } from '../../shared/with-rights.ts';

/** The same status that a command refused by these checks would have. */
const EXIT_FAILED = 6;

const MARKS: Record<CheckResult['status'], { text: string; colour: Colour }> = {
  ok: { text: 'ok     ', colour: 'green' },
  warning: { text: 'warning', colour: 'yellow' },
  failed: { text: 'FAILED ', colour: 'red' },
  not_applicable: { text: '-      ', colour: 'dim' },
};

/** What the checks of one command are asked for by; the same words as in the API. */
const COMMANDS: readonly DoctorCommand[] = ['create', 'start', 'nat', 'ssh', 'exec', 'build', 'bundle', 'resize'];

export default defineCommand({
  positionals: ['[command]'],
  completes: { command: { words: COMMANDS } },
  description: [
    'The exit status is 6 when a check failed, so that a start would fail too.',
    `A command asks for its checks alone: ${COMMANDS.join(', ')}.`,
  ].join('\n\n'),
  options: {
    fix: { type: 'flag', help: 'first run those fixes that take no decision: install, load, set rights' },
    sudoers: { type: 'flag', help: 'print the smallest sudoers rules that let this user run the daemon without root' },
  },
  examples: [
    'doctor',
    'doctor --json',
    'doctor --fix start',
    'doctor --sudoers | sudo install -m 0440 /dev/stdin /etc/sudoers.d/banger',
  ],
  async run(ctx, { args, options }) {
    if (options.sudoers) return (await ctx.api.call('sudoers', {})).text;
    const command = args.command === undefined ? undefined : knownCommand(args.command);
    const ask = () => ctx.api.call('doctor', command === undefined ? {} : { query: { command } });
    let report = await ask();
    if (options.fix && (await repair(ctx, report))) report = await ask();
    if (!report.ok) ctx.status = EXIT_FAILED;
    return report;
  },
  print: (report, ctx) => (typeof report === 'string' ? report.trimEnd() : renderReport(report, ctx.paint)),
});

function knownCommand(text: string): DoctorCommand {
  const known = COMMANDS.find((command) => command === text);
  if (known !== undefined) return known;
  throw new BangerError('invalid_input', `doctor knows no checks for "${text}".`, {
    hint: `banger doctor ${nearest(text, COMMANDS) ?? COMMANDS.join('|')}`,
  });
}

/**
 * Shows the commands that put failed checks right, then runs them one by one on this terminal.
 * @returns whether any was run, so that the checks may have another result
 */
async function repair(ctx: Context, { checks }: DoctorReport): Promise<boolean> {
  const failed = checks.filter(({ status }) => status === 'failed');
  const commands = new Map<string, Argv>();
  for (const check of failed) {
    if (!check.repair) continue;
    const argv = check.repair.asRoot ? withRights(ctx.terminal, check.repair.argv) : check.repair.argv;
    commands.set(commandLine(argv), argv);
  }
  if (commands.size === 0) {
    if (failed.length > 0) ctx.talk('What failed here is yours to decide: nothing was run.');
    return false;
  }
  ctx.talk(['These commands are run now:', ...commands.keys()].join('\n  '));
  for (const [line, argv] of commands) {
    ctx.talk(`\n+ ${line}`);
    // what the program says is talk: standard output is for the report
    const status = await ctx.terminal.runInteractive(argv, { output: 'stderr' });
    if (status !== 0) ctx.warn(`\`${line}\` ended with ${status}`);
  }
  ctx.talk('');
  return true;
}

function renderReport({ checks, summary, ok }: DoctorReport, paint: Paint): string {
  const failed = checks.filter(({ status }) => status === 'failed').length;
  const facts = Object.entries(summary);
  return [
    ...checks.flatMap((check) => renderCheck(check, paint)),
    ...(facts.length === 0 ? [] : ['', renderFields(facts, paint)]),
    '',
    ok ? paint('green', 'This machine is ready.') : paint('red', `Checks that failed: ${failed}`),
  ].join('\n');
}

function renderCheck(check: CheckResult, paint: Paint): string[] {
  const mark = MARKS[check.status];
  const lines = [`${paint(mark.colour, mark.text)}  ${check.title}: ${check.detail}`];
  if (check.status === 'failed') lines.push(`         ${paint('dim', 'looked for:')} ${check.lookedFor}`);
  if (check.fix !== undefined && check.status !== 'ok') lines.push(`         ${paint('dim', 'fix:')} ${check.fix}`);
  return lines;
}
