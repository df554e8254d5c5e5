/** How an error looks on a terminal: what happened, then the next command. */
import type { BangerError } from '../../errors.ts';
import type { Paint } from './paint.ts';
import { plainData, plainText } from './plain-text.ts';

interface FailedCheck {
  title: string;
  detail: string;
  lookedFor?: string;
  fix?: string;
}

export function renderError(error: BangerError, paint: Paint): string {
  const checks = plainData(failedChecks(error));
  // the message lists them too, for who has nothing but the message
  const message = plainText(checks.length > 0 ? (error.message.split('\n', 1)[0] ?? '') : error.message);
  const lines = [`${paint('red', 'banger:')} ${message}`];
  for (const check of checks) {
    const where = check.lookedFor === undefined ? '' : ` (looked for ${check.lookedFor})`;
    lines.push(`  ${paint('red', '✘')} ${check.title}: ${check.detail}${where}`);
    if (check.fix !== undefined) lines.push(`    ${paint('dim', 'fix:')} ${check.fix}`);
  }
  if (error.hint !== undefined) lines.push(renderHint(plainText(error.hint), paint));
  // only a bug has no explanation of its own; its origin is what a report needs
  if (error.code === 'internal' && error.cause instanceof Error && error.cause.stack) {
    lines.push(plainText(error.cause.stack));
  }
  return `${lines.join('\n')}\n`;
}

/** A hint is a command to try or a whole sentence, which begins with a capital letter. */
export function renderHint(hint: string, paint: Paint, indent = '  '): string {
  const indented = hint.replaceAll('\n', `\n${indent}`);
  return /^[A-Z]/.test(hint) ? `${indent}${indented}` : `${indent}${paint('dim', 'try:')} ${indented}`;
}

/** The failed checks a `preflight_failed` carries. */
function failedChecks(error: BangerError): FailedCheck[] {
  const checks = error.code === 'preflight_failed' ? error.details?.checks : undefined;
  return Array.isArray(checks) ? checks.filter(isFailedCheck) : [];
}

function isFailedCheck(check: unknown): check is FailedCheck {
  if (typeof check !== 'object' || check === null) return false;
  if ('status' in check && check.status !== 'failed') return false;
  return 'title' in check && typeof check.title === 'string' && 'detail' in check && typeof check.detail === 'string';
}
