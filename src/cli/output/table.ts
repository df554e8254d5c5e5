/**
 * Tables of text: columns as wide as their widest cell, two spaces between them. Our own because
 * `banger ls` must be on the screen in milliseconds, before a table library would be read, and what is
 * shown in tables here is ASCII: names, numbers, paths.
 */
import type { Paint } from './paint.ts';
import { plainLine } from './plain-text.ts';

/** A cell; a function of it paints after the width is known. */
export type Cell = string | { text: string; paint: (padded: string) => string };

export function renderTable(header: readonly string[], rows: readonly (readonly Cell[])[], paint: Paint): string {
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => textOf(row[column] ?? '').length)),
  );
  const line = (cells: readonly Cell[]) =>
    widths
      .map((width, column) => {
        const cell = cells[column] ?? '';
        const text = textOf(cell);
        const padded = column === widths.length - 1 ? text : text.padEnd(width + 2);
        return typeof cell === 'string' ? padded : cell.paint(padded);
      })
      .join('')
      .trimEnd();
  return [paint('dim', line(header)), ...rows.map(line)].join('\n');
}

/** Lines of `key  value`, the keys as wide as the widest. */
export function renderFields(fields: readonly (readonly [string, string])[], paint: Paint): string {
  const width = Math.max(...fields.map(([key]) => key.length));
  return fields.map(([key, value]) => `${paint('dim', key.padEnd(width + 2))}${value}`.trimEnd()).join('\n');
}

function textOf(cell: Cell): string {
  return plainLine(typeof cell === 'string' ? cell : cell.text);
}
