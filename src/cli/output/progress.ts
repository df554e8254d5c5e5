/** What a display of running operations can be told, whichever it is. */

export interface Progress {
  label: string;
  detail?: string | undefined;
  done?: number | undefined;
  total?: number | undefined;
}

/** One operation on display. */
export interface TaskView {
  /** what it does now, as a phrase */
  step(text: string): void;
  progress(progress: Progress): void;
  /** a line of output from what it runs */
  log(line: string): void;
  warn(message: string): void;
  /** shows what explains a failure, before its error is printed */
  fail(): void;
  end(): void;
}

export interface ProgressView {
  begin(label: string): TaskView;
  /** makes room for other text on the terminal; what runs is drawn again below it */
  clear(): void;
  close(): void;
}

/** Part of `total` that is done, 0 to 1; undefined when it is not known. */
export function fractionOf({ done, total }: Progress): number | undefined {
  if (done === undefined || total === undefined || total <= 0) return undefined;
  return Math.min(Math.max(done / total, 0), 1);
}
