/** Checks: one question each, asked side by side before anything is touched; all that fail are told at once. */
import { BangerError, messageOf } from '../errors.ts';
import type { Argv } from '../system/runner.ts';

/** What a check tries takes milliseconds; a machine that is overloaded must not look as if it lacked something. */
export const TRIAL_LIMIT_MS = 30_000;

export type CheckStatus = 'ok' | 'warning' | 'failed' | 'not_applicable';

/** What a check found. */
export interface CheckOutcome {
  status: CheckStatus;
  /** what was looked for and where */
  lookedFor: string;
  /** what was found, a sentence */
  detail: string;
  /** one command, or one sentence where no command can do it */
  fix?: string;
  /** the fix as a command that takes no decision: `banger doctor --fix` runs it; absent where somebody must judge */
  repair?: Repair;
}

/** A command that puts something right: it installs, loads or sets rights, and nothing else. */
export interface Repair {
  argv: Argv;
  /** whether it needs root */
  asRoot: boolean;
}

export interface CheckResult extends CheckOutcome {
  /** stable, e.g. `network.pool` */
  id: string;
  /** what the check is about, a noun phrase */
  title: string;
}

export interface Check<Context> {
  id: string;
  title: string;
  run(context: Context): Promise<CheckOutcome>;
}

/** Runs checks side by side. One that breaks has failed: what cannot be found out must not pass for a yes. */
export async function runChecks<Context>(checks: readonly Check<Context>[], context: Context): Promise<CheckResult[]> {
  return await Promise.all(
    checks.map(async (check) => ({ id: check.id, title: check.title, ...(await runCheck(check, context)) })),
  );
}

async function runCheck<Context>(check: Check<Context>, context: Context): Promise<CheckOutcome> {
  try {
    return await check.run(context);
  } catch (error) {
    const fix = error instanceof BangerError ? error.hint : undefined;
    return {
      status: 'failed',
      lookedFor: check.title,
      detail: messageOf(error),
      ...(fix === undefined ? {} : { fix }),
    };
  }
}

/**
 * @param purpose what the checks were for, e.g. "start a VM"
 * @throws BangerError `preflight_failed` that lists every failed check with its fix; `details.checks` carries them
 */
export function assertPassed(results: readonly CheckResult[], purpose: string): void {
  const failed = results.filter((result) => result.status === 'failed');
  if (failed.length === 0) return;
  const count = failed.length === 1 ? 'One thing is' : `${failed.length} things are`;
  throw new BangerError(
    'preflight_failed',
    [`${count} missing to ${purpose}; nothing was touched.`, ...failed.map(describe)].join('\n'),
    { hint: 'See everything banger needs here: banger doctor', details: { checks: failed } },
  );
}

/** A failed check as it stands in messages: the same words in the error and in doctor. */
export function describe(result: CheckResult): string {
  const fix = result.fix === undefined ? '' : `\n    fix: ${result.fix}`;
  return `  ${result.title}: ${result.detail} (looked for ${result.lookedFor})${fix}`;
}

export function ok(lookedFor: string, detail: string): CheckOutcome {
  return { status: 'ok', lookedFor, detail };
}

export function failed(lookedFor: string, detail: string, fix: string, repair?: Repair): CheckOutcome {
  return { status: 'failed', lookedFor, detail, fix, ...(repair === undefined ? {} : { repair }) };
}

/** A repair that only root can do. */
export function rootRepair(...argv: Argv): Repair {
  return { argv, asRoot: true };
}

export function warning(lookedFor: string, detail: string, fix?: string): CheckOutcome {
  return { status: 'warning', lookedFor, detail, ...(fix === undefined ? {} : { fix }) };
}

export function notApplicable(lookedFor: string, detail: string): CheckOutcome {
  return { status: 'not_applicable', lookedFor, detail };
}
