/** A Runner that plays back scripted answers; a command nobody scripted fails the test. */
import assert from 'node:assert/strict';
import { BangerError } from '../../src/errors.ts';
import type { Argv, DetachedOptions, DetachedProcess, Runner, RunOptions, RunResult } from '../../src/system/runner.ts';

export interface ScriptedAnswer {
  exit?: number;
  stdout?: string;
  stderr?: string;
}

export interface ScriptedRunner extends Runner {
  /** every command run so far, as one text each */
  readonly calls: string[];
  /** what was given on standard input, in the order of `calls` */
  readonly inputs: string[];
}

/** Answers by the longest script key that begins the command line; `{}` is exit 0 without output. */
export function scriptedRunner(
  script: Record<string, ScriptedAnswer | ((argv: Argv) => ScriptedAnswer)>,
): ScriptedRunner {
  const calls: string[] = [];
  const inputs: string[] = [];
  return {
    calls,
    inputs,
    async run(argv: Argv, options: RunOptions = {}): Promise<RunResult> {
      const line = argv.join(' ');
      calls.push(line);
      inputs.push(typeof options.input === 'string' ? options.input : '');
      const key = Object.keys(script)
        .filter((candidate) => line.startsWith(candidate))
        .sort((a, b) => b.length - a.length)[0];
      assert.ok(key !== undefined, `no script for: ${line}`);
      const entry = script[key];
      const answer = typeof entry === 'function' ? entry(argv) : entry;
      const result = { exitCode: answer?.exit ?? 0, stdout: answer?.stdout ?? '', stderr: answer?.stderr ?? '' };
      if (!(options.okExits ?? [0]).includes(result.exitCode)) {
        throw new BangerError('command_failed', `\`${line}\` ended with ${result.exitCode}: ${result.stderr}`, {
          details: { exitCode: result.exitCode },
        });
      }
      for (const text of `${result.stdout}${result.stderr}`.split('\n')) if (text) options.onLine?.(text);
      return result;
    },
    async startDetached(argv: Argv, _options: DetachedOptions): Promise<DetachedProcess> {
      throw new assert.AssertionError({ message: `unexpected detached start: ${argv.join(' ')}` });
    },
  };
}
