/** `banger doctor`: every preflight check, and the command that fixes each "no". */
import type { CheckResult, DoctorReport } from '../../api/schemas.ts';
import { defineCommand } from '../command.ts';
import type { Colour, Paint } from '../output/paint.ts';
import { renderFields } from '../output/table.ts';

/** The same status that a command refused by these checks would have. */
const EXIT_FAILED = 6;

const MARKS: Record<CheckResult['status'], { text: string; colour: Colour }> = {
  ok: { text: 'ok     ', colour: 'green' },
  warning: { text: 'warning', colour: 'yellow' },
  failed: { text: 'FAILED ', colour: 'red' },
  not_applicable: { text: '-      ', colour: 'dim' },
};

export default defineCommand({
  description: 'The exit status is 6 when a check failed, so that a start would fail too.',
  options: {
    sudoers: { type: 'flag', help: 'print the smallest sudoers rules that let this user run the daemon without root' },
  },
  examples: ['doctor', 'doctor --json', 'doctor --sudoers | sudo tee /etc/sudoers.d/banger'],
  async run(ctx, { options }) {
    if (options.sudoers) return (await ctx.api.call('sudoers', {})).text;
    const report = await ctx.api.call('doctor', {});
    if (!report.ok) ctx.status = EXIT_FAILED;
    return report;
  },
  print: (report, ctx) => (typeof report === 'string' ? report.trimEnd() : renderReport(report, ctx.paint)),
});

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
