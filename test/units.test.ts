import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { formatDuration, formatSize, GIB, MIB, parseDuration, parseSize } from '../src/units.ts';

describe('parseSize', () => {
  it('takes binary units in any spelling people use', () => {
    for (const text of ['2GiB', '2G', '2gb', ' 2 GiB ', '2048M', '2147483648', '2147483648B']) {
      assert.equal(parseSize(text), 2 * GIB, text);
    }
    assert.equal(parseSize('1.5G'), 1.5 * GIB);
    assert.equal(parseSize('0'), 0);
  });

  it('refuses what is no size and says how to write one', () => {
    for (const text of ['', 'lots', '-1G', '1e9', '2 X', '1..5G', '99999999T']) {
      assert.throws(() => parseSize(text), { code: 'invalid_input', hint: /512M/ }, text);
    }
  });
});

describe('formatSize', () => {
  it('picks the unit that reads best', () => {
    assert.equal(formatSize(0), '0 B');
    assert.equal(formatSize(512), '512 B');
    assert.equal(formatSize(1.5 * GIB), '1.5 GiB');
    assert.equal(formatSize(512 * MIB), '512 MiB');
    assert.equal(formatSize(3 * 1024 * GIB), '3 TiB');
  });
});

describe('durations', () => {
  it('reads seconds without a unit and compound ones', () => {
    assert.equal(parseDuration('30'), 30_000);
    assert.equal(parseDuration('1.5s'), 1500);
    assert.equal(parseDuration('1h30m'), 5_400_000);
    assert.equal(parseDuration('250ms'), 250);
    assert.throws(() => parseDuration('soon'), { code: 'invalid_input' });
    assert.throws(() => parseDuration('-5s'), { code: 'invalid_input' });
  });

  it('shows the two largest units', () => {
    assert.equal(formatDuration(430), '430 ms');
    assert.equal(formatDuration(6210), '6.2 s');
    assert.equal(formatDuration(125_000), '2 m 5 s');
    assert.equal(formatDuration(3_600_000), '1 h');
    assert.equal(formatDuration(90_061_000), '1 d 1 h');
  });
});
