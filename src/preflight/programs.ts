/** Whether programs are installed, as one check with one command that installs all that are missing. */
import { findProgram } from '../system/host-facts.ts';
import { type CheckOutcome, failed, ok } from './check.ts';
import type { PreflightContext } from './context.ts';
import { installAdvice, installRepair } from './fixes.ts';

/** A check's answer for a list of programs, each a name in PATH or a path. */
export async function programsOutcome(
  { env, facts, uid }: Pick<PreflightContext, 'env' | 'facts' | 'uid'>,
  programs: readonly string[],
): Promise<CheckOutcome> {
  const lookedFor = `${programs.join(', ')} in PATH`;
  const paths: string[] = [];
  const missing: { program: string; why: string }[] = [];
  for (const program of programs) {
    const result = await findProgram(program, env);
    if (result.found) paths.push(result.path);
    else missing.push({ program, why: result.why });
  }
  if (missing.length === 0) return ok(lookedFor, paths.join(', '));
  const detail = missing.map(({ program, why }) => `${program} is not installed (looked ${why})`).join('; ');
  const names = missing.map(({ program }) => program);
  return failed(lookedFor, `${detail}.`, programAdvice(facts, names, uid), installRepair(facts.distribution, names));
}

function programAdvice(facts: PreflightContext['facts'], names: string[], uid: number): string {
  const configured = names.find((name) => name.includes('/'));
  if (configured) return 'Correct its setting below [programs]; see: banger config show --origin';
  return installAdvice(facts.distribution, names, uid);
}
