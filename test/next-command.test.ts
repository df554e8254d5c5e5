/** Every failure that a person may see says what to do next: where it is thrown, or for its kind. */
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { type Node, parse } from 'acorn';
import { withNextCommand } from '../src/cli/shared/next-command.ts';
import { BangerError, type ErrorCode } from '../src/errors.ts';

const ROOT = join(import.meta.dirname, '..');

/** What comes next depends on the thing that is missing, in the way or damaged, so each of these says it by itself. */
const OWN_HINT: readonly string[] = [
  'not_found',
  'conflict',
  'host_unprepared',
  'daemon_unreachable',
  'preflight_failed',
];

/** Nobody sees these: they are caught where they are made for, or are of a protocol that no person speaks. */
const UNSEEN = [
  /^src\/control\/checks\.ts: 'not asked'/,
  /^src\/control\/builds\/kept-vm\.ts: 'It was replaced/,
  /^src\/daemon\/exec-upgrade\.ts: `Nothing to upgrade to/,
];

interface Throw {
  file: string;
  code: string;
  message: string;
  hasHint: boolean;
}

/** Every `new BangerError` of the sources, in order. */
function* constructions(): Generator<Throw> {
  for (const file of globSync('{src,fcqemu}/**/*.ts', { cwd: ROOT }).sort()) {
    const source = stripTypeScriptTypes(readFileSync(join(ROOT, file), 'utf8'));
    for (const node of nodesOf(parse(source, { ecmaVersion: 'latest', sourceType: 'module' }))) {
      if (node.type !== 'NewExpression' || node.callee.name !== 'BangerError') continue;
      const [code, message, options] = node.arguments;
      const properties = options?.type === 'ObjectExpression' ? options.properties : undefined;
      yield {
        file,
        code: code.type === 'Literal' ? code.value : 'any',
        message: source.slice(message.start, message.end),
        hasHint:
          options !== undefined &&
          (properties === undefined ||
            properties.some(({ type, key }: Any) => type === 'SpreadElement' || key.name === 'hint')),
      };
    }
  }
}

// biome-ignore lint/suspicious/noExplicitAny: acorn's nodes differ by their type
type Any = any;

function* nodesOf(node: Node): Generator<Any> {
  yield node;
  for (const value of Object.values(node).flat()) if (typeof value?.type === 'string') yield* nodesOf(value);
}

describe('a failure', () => {
  it('that is about one thing names the command that helps with it', () => {
    const all = [...constructions()];
    assert.ok(all.length > 400, `${all.length} were found`);
    const without = all.filter(({ code, hasHint }) => !hasHint && OWN_HINT.includes(code));
    const told = without.map(({ file, message }) => `${file}: ${message}`);
    assert.deepEqual(
      told.filter((line) => !UNSEEN.some((pattern) => pattern.test(line))),
      [],
    );
    for (const pattern of UNSEEN)
      assert.ok(
        told.some((line) => pattern.test(line)),
        `${pattern} is of no use`,
      );
  });

  it('of any other kind has the next command of its kind, and its own where it has one', () => {
    const next = (code: ErrorCode, typed: string, hint?: string) =>
      withNextCommand(new BangerError(code, 'It failed.', { hint }), typed).hint;
    assert.equal(next('invalid_input', 'vm start'), 'banger vm start --help');
    assert.equal(next('invalid_input', ''), 'banger --help');
    assert.equal(next('invalid_input', 'start', 'banger ls'), 'banger ls');
    assert.equal(next('cancelled', 'start'), undefined, 'whoever asked to stop knows what comes next');
    for (const { code } of constructions()) {
      if (code !== 'any' && code !== 'cancelled') assert.match(next(code as ErrorCode, 'start') ?? '', /banger /, code);
    }
  });

  it('that is a bug keeps where it came from, and checks keep what mends them', () => {
    const bug = new TypeError('x is not a function');
    assert.equal(withNextCommand(new BangerError('internal', bug.message, { cause: bug }), 'ls').cause, bug);
    const checks = [{ title: 'KVM', status: 'failed', detail: 'no', fix: 'modprobe kvm' }];
    const failed = new BangerError('preflight_failed', 'no', { details: { checks } });
    assert.equal(withNextCommand(failed, 'run'), failed);
    const bare = new BangerError('preflight_failed', 'no', { details: { checks: [{ title: 'KVM' }] } });
    assert.equal(withNextCommand(bare, 'run').hint, 'banger doctor');
  });
});
