// The slider's whole numbers show one layer; between two the upper one fades in.
for (const viewer of document.querySelectorAll('.viewer')) {
  const slider = viewer.querySelector('input');
  const images = viewer.querySelectorAll('img');
  const buttons = viewer.querySelectorAll('button');
  const show = () => {
    const value = Number(slider.value);
    images.forEach((image, n) => {
      if (n) image.style.opacity = Math.min(Math.max(value - n + 1, 0), 1);
    });
    buttons.forEach((button, n) => button.classList.toggle('on', Math.round(value) === n));
  };
  slider.addEventListener('input', show);
  buttons.forEach((button, n) => button.addEventListener('click', () => {
    slider.value = n;
    show();
  }));
  show();
}

// A click on a heading sorts, numbers first from the largest; a second click turns the order round.
// What does not exist ("-") stays at the end.
for (const table of document.querySelectorAll('.sortable')) {
  const [head, ...rows] = table.rows;
  [...head.cells].forEach((heading, column) => heading.addEventListener('click', () => {
    const isNumber = heading.classList.contains('number');
    const before = heading.ariaSort;
    for (const cell of head.cells) cell.ariaSort = null;
    heading.ariaSort = (before ? before === 'ascending' : isNumber) ? 'descending' : 'ascending';
    const sign = heading.ariaSort === 'descending' ? -1 : 1;
    const text = row => row.cells[column].innerText.trim();
    const number = row => parseFloat(text(row).replaceAll(',', ''));
    rows.sort((a, b) => {
      if (!isNumber) return sign * text(a).localeCompare(text(b));
      if (isNaN(number(a)) || isNaN(number(b))) return isNaN(number(a)) - isNaN(number(b));
      return sign * (number(a) - number(b));
    });
    head.after(...rows);
  }));
}
