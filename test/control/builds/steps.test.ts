/** What a person is told of a step, and how much of its output is passed on. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { stepError, thinned } from '../../../src/control/builds/steps.ts';

const RUN = { exitCode: null, signal: null, timedOut: false, stdout: '', tail: [], lingers: false };

describe('a step that failed', () => {
  it('is told with its exit code and its last lines', () => {
    const error = stepError('dev', 'run 2: make', { ...RUN, exitCode: 3, tail: ['one', 'two'] }, 1000);
    assert.equal(
      error.message,
      'Building dev: the step "run 2: make" ended with 3.\n  It said last:\n    one\n    two',
    );
    assert.equal(error.code, 'guest_failed');
    assert.deepEqual(error.details, { step: 'run 2: make', exitCode: 3, signal: null, lines: ['one', 'two'] });
  });

  it('is told with its cause where that is known', () => {
    const { message } = stepError('dev', 'files', { ...RUN, exitCode: 2, tail: ['x: No space left on device'] }, 1000);
    assert.match(message, /ended with 2: the disk is full: give the image more/);
  });

  it('is told with a full disk that came long before its last lines', () => {
    const run = { ...RUN, exitCode: 1, tail: ['dpkg: error processing package cpp (--install):'] };
    assert.match(stepError('dev', 's', run, 1000).message, /package cpp could not be installed/);
    const { message } = stepError('dev', 's', run, 1000, 'cannot copy: No space left on device');
    assert.match(message, /ended with 1: the disk is full/);
  });

  it('is told apart by how it ended', () => {
    assert.match(stepError('dev', 's', { ...RUN, signal: 'SIGKILL' }, 1).message, /was killed by SIGKILL\.$/);
    assert.match(stepError('dev', 's', RUN, 1).message, /the connection to the VM ended\.$/);
    const late = stepError('dev', 's', { ...RUN, timedOut: true }, 90_000);
    assert.match(late.message, /did not end within 1 m 30 s\.$/);
    assert.equal(late.code, 'timeout');
  });
});

describe('a flood of lines', () => {
  it('is thinned to some hundred a second, with the number of those left out', () => {
    let now = 0;
    const passed: string[] = [];
    const pass = thinned(
      (line) => passed.push(line),
      () => now,
    );
    for (let line = 0; line < 1000; line++) pass(String(line));
    assert.equal(passed.length, 200);
    now = 1000;
    pass('next');
    assert.deepEqual(passed.slice(200), ['… 800 lines left out', 'next']);
  });
});
